PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint chaos soak fuzz vllm-sources bench-loop audit proto stubs examples lock clean

help:  ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Installs everything into .venv

demo: $(READY)  ## Compares vLLM's own order with TRAIL's on a real vLLM (about 15 minutes on two cores)
	trail demo

test: lint  ## Lint, types and all tests
	pytest

chaos: $(READY)  ## Puts a loaded engine through every fault (about 8 minutes); CHAOS=vllm: the main ones on a real vLLM
	$(if $(filter vllm,$(CHAOS)),pytest tests/e2e/test_faults.py,python -m tests.chaos $(CHAOS))

MINUTES ?= 5

soak: $(READY)  ## Memory, files and latency while engines come and go (MINUTES=5); MINUTES=120: two hours
	python -m benchmarks.soak --minutes $(MINUTES)

lint: $(READY)  ## ruff, mypy, buf
	ruff check .
	ruff format --check .
	mypy
	buf lint proto

RUNS ?= 100000

fuzz: $(READY)  ## Coverage-guided inputs to all that reads what others wrote (RUNS=100000 for each)
	pip install --quiet atheris==3.0.0
	python -m tests.fuzz --runs $(RUNS)

vllm-sources: $(READY)  ## Fetches the oldest and newest supported vLLM's sources (700 MB), for `make test` to test
	python -m tests.integration.vllm_sources

bench-loop: $(READY)  ## Times the loop from hidden states to plan, without an engine (about 6 minutes)
	python -m benchmarks.loop --out out/bench/loop.json

# Tools of their own, so that they are not in what they list.
audit: $(READY)  ## Known vulnerabilities of what is pinned, and a bill of materials: out/audit
	$(PYTHON) -m venv out/audit/tools
	out/audit/tools/bin/pip install --quiet pip-audit==2.10.1 cyclonedx-bom==7.5.0
	python -m deploy.audit --tools out/audit/tools/bin --python $(BIN)/python

proto: $(READY)  ## Generates trail.v1 and the byte-exact vectors from the contract
	proto/generate.sh
	python proto/vectors/generate.py

stubs:  ## Generates the contract for Go, Java, C++, Rust and TypeScript into out/stubs, as far as the tools are there
	proto/stubs.sh out/stubs

examples:  ## Builds the example adapters in TypeScript and C++ (needs npm, and the Debian packages that .ci/run names)
	npm --prefix engine_adapter/examples/typescript ci --ignore-scripts --no-audit --no-fund
	npm --prefix engine_adapter/examples/typescript run build
	$(MAKE) -C engine_adapter/examples/cpp

# async-timeout: redis needs it before Python 3.11.3, where a freeze on a newer Python would miss it.
lock:  ## Pins what is installed now, for machines without a GPU
	(echo async-timeout==5.0.1; pip freeze --exclude-editable --exclude trail-sidecar --exclude async-timeout) \
	    | grep -vE '^(torchvision|torchaudio|torchcodec)==' | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' \
	    | sort --ignore-case > requirements-cpu.lock

clean:  ## Removes what was made here
	rm -rf $(VENV) out

# A GPU machine takes vLLM's CUDA build; any other the pinned CPU build. Without --no-deps, the CPU build would bring a
# CUDA build of torchvision, which breaks `import transformers`. Where pip knows only PyTorch's CUDA build, that cannot be
# imported without its libraries, so these are installed as well.
$(READY): pyproject.toml requirements-cpu.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@if command -v nvidia-smi >/dev/null; then set -x; \
	    $(BIN)/pip install --quiet --editable '.[vllm,gpu,demo,train,tracing,ab,deploy,dev]'; \
	else set -x; \
	    $(BIN)/pip install --quiet --no-deps --requirement requirements-cpu.lock && \
	    $(BIN)/pip install --quiet --no-deps --editable . && \
	    { $(BIN)/python -c 'import torch' 2>/dev/null || \
	      $(BIN)/pip install --quiet "$$(grep '^torch==' requirements-cpu.lock)"; }; \
	fi
	touch $@
