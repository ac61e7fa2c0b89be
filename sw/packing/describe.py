"""``info``: what is in a network or a memory image."""

from __future__ import annotations

import math
from pathlib import Path

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.image import MAGIC
from stillnet.sw.network.network import Network, QuantizedLayer
from stillnet.sw.util.results.networks import (
    CompressReport,
    DeadlineReport,
    InputInfo,
    LayerInfo,
    MatrixInfo,
    NetworkInfo,
    QuantizeReport,
)
from stillnet.sw.util.results.products import ImageInfo

__all__ = ["describe_network", "info"]


def info(source: Network | str | Path) -> NetworkInfo | ImageInfo:
    """Explains a network (``.safetensors``) or a memory image (``.img``).

    ::

        import stillnet as sn

        info = sn.info("net.safetensors")
        print(info.report.output_error)
        for layer in info.layers:
            print(layer.name, layer.cell, layer.headroom_bits)

    Parameters
    ----------
    source : Network, or path of a network or an image

    Returns
    -------
    NetworkInfo or ImageInfo
        ``kind`` is ``"network"`` or ``"image"``.
    """
    if isinstance(source, Network):
        return describe_network(source)
    path = Path(source)
    if path.is_dir():
        raise StillnetError(f"'{path}' is a folder; give a network or an image")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise StillnetError(f"cannot read '{path}': {error.strerror or error}") from error
    if path.suffix.lower() == ".img" or head == MAGIC.to_bytes(4, "little"):
        from .packer import describe

        return ImageInfo(**describe(path))
    return describe_network(Network.load(path))


def describe_network(network: Network) -> NetworkInfo:
    """Everything that ``stillnet info`` says of a network."""
    layers = [_layer(network, i, layer) for i, layer in enumerate(network.layers)]
    notes = network.notes
    report, compression = notes.get("report"), notes.get("compression")
    deadline = notes.get("deadline")
    return NetworkInfo(
        name=network.name,
        inputs=network.inputs,
        outputs=network.outputs,
        input=InputInfo(
            mode=network.input_mode.name.lower(),
            fraction=network.input_fraction,
            threshold=network.input_threshold,
            threshold_value=network.input_threshold / 2.0**network.input_fraction,
        ),
        weights=sum(m.weight.size for layer in network.layers for m in layer.matrices),
        bytes=sum(layer.bytes for layer in layers),
        layers=layers,
        report=report and QuantizeReport.from_dict(report),
        options=notes.get("options"),
        compression=compression and CompressReport.from_dict(compression),
        deadline=deadline and DeadlineReport.from_dict(deadline),
    )


def _layer(network: Network, i: int, layer: QuantizedLayer) -> LayerInfo:
    worst = max(int(rows.max()) for rows in network.accumulator_bound(i).values())
    one = 2.0**layer.fraction
    second = layer.threshold_recurrent
    return LayerInfo(
        name=layer.name,
        cell=layer.cell,
        units=layer.units,
        fraction=layer.fraction,
        mode=layer.mode.name.lower(),
        threshold=layer.threshold,
        threshold_value=layer.threshold / one,
        threshold_recurrent=second,
        threshold_recurrent_value=None if second is None else second / one,
        exponent=network.exponent(i),
        shift=layer.shift,
        write_shift=layer.write_shift,
        headroom_bits=31 - math.log2(max(worst, 1)),
        bytes=sum(m.weight.size for m in layer.matrices)
        + 4 * layer.units * (len(layer.bias) + len(layer.parameters)),
        initial=sorted(layer.initial),
        parameters=sorted(layer.parameters),
        peers={s: network.source_name(j) for s, j in layer.peers.items()},
        exponents=layer.exponents,
        matrices=[
            MatrixInfo(
                source=network.source_name(m.source),
                gates=list(m.gates),
                rows=m.weight.shape[1],
                columns=m.weight.shape[2],
                fraction=m.fraction,
                bytes=m.weight.size,
            )
            for m in layer.matrices
        ],
    )
