# `make map` classifies the bundled example; `make test` runs the tests. Each installs what it needs.
# `make quick` runs the tests that fail most often, in under a minute.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out

.PHONY: map test quick slow fuzz kills check areas walkthrough benchmarks clean

# The files .core and .dev mark an installation without and with the extra `dev`. A change of the
# dependencies or of the kernels' sources installs again.
$(VENV)/.core: pyproject.toml setup.py constraints.txt \
		$(wildcard das2f_map/network/selective_scan/*.cpp das2f_map/network/selective_scan/*.h) \
		$(wildcard das2f_map/engines/shared_scan/kernels/*) das2f_map/scene/pixels.cpp
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

map: $(VENV)/.core
	mkdir -p $(OUT)
	$(BIN)/das2f-map classify examples/gulf/ms.tif examples/gulf/pan.tif --aoi examples/gulf/window.geojson \
		-o $(OUT)/landcover.tif --overwrite
	$(BIN)/das2f-map preview $(OUT)/landcover.tif -o $(OUT)/landcover.png --overwrite

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not whole"

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

# 1,500 damaged inputs and odd options, on two cores in a quarter of an hour; it goes on where it was ended.
SEED ?= 1
fuzz: $(VENV)/.dev
	mkdir -p $(OUT)
	PYTHONPATH=tests $(BIN)/python -m fuzz.runner --cases 1500 --seed $(SEED) -o $(OUT)/fuzz

# Kill 200 runs at random moments and look at what each leaves; about ten minutes.
kills: $(VENV)/.dev
	rm -rf $(OUT)/kills && mkdir -p $(OUT)/kills
	OMP_NUM_THREADS=1 $(BIN)/python tests/outputs/killed_runs.py maps_at_random $(OUT)/kills 200 $(SEED)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

areas: $(VENV)/.dev
	BIN=$(abspath $(BIN)) sh examples/areas.sh $(OUT)/areas

# Train on the example for a few minutes, map it, and measure the map.
walkthrough: $(VENV)/.dev
	BIN=$(abspath $(BIN)) sh examples/walkthrough.sh $(OUT)/walkthrough

# Measure everything, an hour and a half on two cores; tables and plots go into docs/. Nothing else should run meanwhile.
benchmarks: $(VENV)/.dev
	for name in engines breakdown training scenes growth; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/render.py

clean:
	rm -rf $(OUT) build dist *.egg-info
