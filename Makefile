# Two commands are enough: `make demo` and `make test`. Both set up what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
WORKERS ?= auto

.PHONY: demo test test-slow lint bench demo-models sample-data clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet uv \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]' \
	  || $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python -m demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: $(READY) lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal  # neighbours in a file share what is made for them

test-slow: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

bench: $(VENV)/peers/ready
	$(BIN)/python -m benchmarks --store --million $(BENCH)

$(VENV)/peers/ready: benchmarks/requirements.txt $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/peers -r benchmarks/requirements.txt
	touch $(VENV)/peers/ready

demo-models: $(READY)
	$(BIN)/python -m demo.train_models

sample-data: $(READY)
	$(BIN)/python -m scenes card sample_data

clean:
	rm -rf $(VENV) demo_out build *.egg-info .pytest_cache .ruff_cache .hypothesis
