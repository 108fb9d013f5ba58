# `make demo` and `make test` do all their own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types unit avx2 test-vllm test-transformers test-browser picture record schemas docs docs-site clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## Select, explain and run a real model's MoE layer on the CPU.
	$(BIN)/python examples/demo.py

test: lint types unit avx2  ## Everything a change has to pass.

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

unit: $(VENV)/.installed
	$(BIN)/pytest -n 2

avx2: $(VENV)/.installed  ## The tests of CPU kernels as on x86 without AVX-512.
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/pytest $(wildcard tests/kernels/test_cpu_*.py)

VLLM_ENGINE_TESTS := tests/vllm/test_engine.py tests/vllm/test_experts.py

# A real vLLM: 12 GB of packages, and minutes to make and run; see docs/vllm.md.
test-vllm: $(VENV)-vllm/.installed $(VENV)-vllm-simulated/.installed  ## The plugin in vLLM itself.
	$(VENV)-vllm/bin/python -m pytest $(VLLM_ENGINE_TESTS) tests/vllm/test_layer_life.py
	$(VENV)-vllm-simulated/bin/python -m pytest tests/vllm $(VLLM_ENGINE_TESTS:%=--ignore=%)

$(VENV)-vllm/.installed: tests/vllm/environment.py
	$(PYTHON) $< engine $(@D)
	touch $@

$(VENV)-vllm-simulated/.installed: tests/vllm/environment.py
	$(PYTHON) $< simulated $(@D)
	touch $@

# Every architecture of transformers, and the oldest version that is supported; minutes.
test-transformers: $(VENV)/.installed $(VENV)-transformers/.installed  ## Whole models of transformers.
	MOE_RULES_LONG=1 $(BIN)/pytest tests/integrations/transformers
	MOE_RULES_LONG=1 $(VENV)-transformers/bin/python -m pytest tests/integrations/transformers

OLDEST_TRANSFORMERS := 5.17.0

$(VENV)-transformers/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(@D)
	grep -v transformers constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(@D)/constraints.txt \
		-e '.[transformers]' transformers==$(OLDEST_TRANSFORMERS) hypothesis pytest
	touch $@

# What a release of vLLM decides, without a GPU; RECORD_PYTHON is that of an environment with it, which
# is made otherwise (docs/recording.md).
record: $(VENV)/.installed  ## Record VERSION: make record VERSION=0.33.0 MACHINE="cuda-sm90 xpu" CASES=600
	$(BIN)/python -m tools.record $(VERSION) $(MACHINE:%=--machine %) $(PLATFORM:%=--platform %) $(CASES:%=--cases %) \
		$(RECORD_PYTHON:%=--python %) $(RECORD_OPTIONS)

# What the report looks like goes to PICTURES; docs/report.png is one of them.
PICTURES ?= out/browser

test-browser: $(VENV)-browser/.installed  ## The report in headless Chromium.
	$(VENV)-browser/bin/python tests/browser/chromium.py
	MOE_RULES_PICTURES=$(PICTURES) $(VENV)-browser/bin/python -m pytest tests/browser

picture: test-browser  ## docs/report.png anew, as the browser test saw it.
	cp $(PICTURES)/readme.png docs/report.png

$(VENV)-browser/.installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[browser]'
	touch $@

schemas: $(VENV)/.installed  ## Write schemas/ anew from the models.
	$(BIN)/moe-rules schema --write schemas

docs: $(VENV)/.installed  ## Write docs/quirks.md, coverage.md and releases.md anew from the tables.
	$(BIN)/python -m moe_rules.reporting.quirks --write
	$(BIN)/python -m moe_rules.reporting.coverage --write
	$(BIN)/python -m moe_rules.cli.releases_page --write

DOCS_SITE := build/docs-site

docs-site: $(VENV)-docs/.installed  ## The documentation as a site, build/docs-site/site/index.html.
	$(VENV)-docs/bin/python -m tools.site $(DOCS_SITE)
	$(VENV)-docs/bin/zensical build --strict --clean --config-file $(DOCS_SITE)/mkdocs.yml
	$(VENV)-docs/bin/python -m tools.site.checking $(DOCS_SITE)/site

$(VENV)-docs/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-browser $(VENV)-docs $(VENV)-transformers $(VENV)-vllm $(VENV)-vllm-simulated $(DOCS_SITE) .record dist .mypy_cache .pytest_cache .ruff_cache
