# The two commands of the README, `make demo` and `make test`, set up .venv themselves. Nothing here needs a GPU or a system package.
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: install demo test test-slow test-browser mutate fuzz bench lint format clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "omnisent needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/omnisent compare configs/tiny.yaml --seeds 0 --out runs/demo
	rm -rf runs/demo/model && cp -r runs/demo/discriminative/seed-0/model runs/demo/model
	$(BIN)/omnisent report runs/demo --out runs/demo/report.html
	$(BIN)/python examples/score_clips.py runs/demo/model runs/planted/clips.csv
	$(BIN)/omnisent score runs/planted/media/planted-0000_1.mp4 --text "honestly the story was good." --model runs/demo/model --interval 0.9

# Files in their order: the few long tests of experiments/ and hub/ come first, so that neither process waits for the other at the end.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: install
	$(BIN)/python -m pytest -q -m slow

test-browser: install
	$(BIN)/python -m pytest -q -m browser

mutate: install
	nice -n 10 $(BIN)/python tests/mutate.py

fuzz: install
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.run --out runs/fuzz

bench: install runs/demo/model
	$(BIN)/python benchmarks/preprocessing.py runs/demo/model
	for name in feature_cache step readouts growth; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/summary.py

runs/demo/model:
	$(MAKE) demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build *.egg-info
