# Everything a checkout needs. Each target sets up its own environment in $(VENV) first.
# The first Python >= 3.11 that can make environments; PYTHON=/path/to/python names another.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$name -c '$(IS_USABLE)' >/dev/null 2>&1 && echo $$name && break; done)
IS_USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: demo test test-fast coverage wheel claims bench lint format docs site notebooks clean

$(VENV)/.installed: pyproject.toml
	@$(or $(PYTHON),false) -c '$(IS_USABLE)' 2>/dev/null || { \
		echo "make: no Python 3.11 or newer with the modules venv and ensurepip (PYTHON=$(PYTHON))" >&2; \
		echo "hint: install one (Debian, Ubuntu: apt install python3 python3-venv), or: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## brighten the example photos, and show them beside the originals
	$(BIN)/effcli enhance examples/*.jpg -o demo/ --force --gallery demo/before-after.html
	$(BIN)/python examples/contact_sheet.py examples demo demo/contact-sheet.jpg
	@echo "Before and after: demo/contact-sheet.jpg, and with a slider: demo/before-after.html"

test: lint  ## lint, types, all tests
	$(PYTEST)

test-fast: $(VENV)/.installed  ## the tests that take less than a second each, in under two minutes
	$(PYTEST) -m "not slow"

coverage: $(VENV)/.installed  ## all tests, and which lines of effcli/ and cli/ they run; fails below 90 %; what CI runs
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-fail-under=90

wheel: $(VENV)/.installed  ## build it into dist/, and try it outside the checkout
	.ci/wheel $(BIN)/python

claims: $(VENV)/.installed  ## verify every shipped claim (hours); DATA=folder with the claims' data
	for claim in $$($(BIN)/effcli recipes ls | grep /claims/); do \
		$(BIN)/effcli verify $$claim $(if $(DATA),--data $(DATA)) || test $$? -eq 4 || exit 1; \
	done

bench: $(VENV)/.installed  ## speed, as ratios inside one run; nothing else should be running
	mkdir -p bench
	for script in benchmarks/*.py; do $(BIN)/python $$script --json bench/$$(basename $$script .py).json || exit 1; done

lint: $(VENV)/.installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed  ## the pages that are made: every command's help, every recipe key, results and costs
	$(BIN)/python docs/make_commands.py
	$(BIN)/python docs/make_recipe_keys.py
	$(BIN)/python docs/make_results.py
	$(BIN)/python docs/make_costs.py

site: $(VENV)/.installed  ## the documentation as a site, in site/; needs no network, and any broken link or anchor fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "site/index.html; with search: $(BIN)/python -m http.server -d site"

notebooks: $(VENV)/.installed  ## run them all, about three minutes of one core
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=300 notebooks

clean:
	rm -rf $(VENV) build dist demo bench site htmlcov .coverage* *.egg-info
