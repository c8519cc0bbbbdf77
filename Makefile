# Everything a checkout needs. `make demo` and `make test` set up their own environment first.
VENV ?= .venv
PYTHON ?= python3.11
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: demo test claims bench lint format docs clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## brighten the example photos
	$(BIN)/effcli enhance examples/ -o demo/ --force
	@echo "The bright pictures are in demo/ ; the dark ones in examples/"

test: $(VENV)/.installed  ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

claims: $(VENV)/.installed  ## verify every shipped claim (hours); DATA=folder with the claims' data
	for claim in $$($(BIN)/effcli recipes ls | grep /claims/); do \
		$(BIN)/effcli verify $$claim $(if $(DATA),--data $(DATA)) || test $$? -eq 4 || exit 1; \
	done

bench: $(VENV)/.installed  ## speed, as ratios inside one run; nothing else should be running
	mkdir -p bench
	for script in benchmarks/*.py; do $(BIN)/python $$script --json bench/$$(basename $$script .py).json || exit 1; done

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed  ## the page with every command's help
	$(BIN)/python docs/make_commands.py

clean:
	rm -rf $(VENV) build dist demo bench *.egg-info
