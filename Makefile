# The two commands of the README, `make demo` and `make test`, set up .venv themselves. Nothing here needs a GPU or a system package.
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: install demo real check lint types docs test test-slow test-browser test-lowest mutate fuzz bench wheel format clean

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

# A language model that has learnt English, trained on rated sentences. A stopped one goes on where it was.
real: install
	@echo "make real: both readouts on tweets and film reviews, then the report; about an hour and 6 GB of memory on two cores"
	$(BIN)/omnisent backbone small runs/small-backbone
	$(BIN)/omnisent compare configs/small.yaml --arms trained --seeds 0 --out runs/real
	rm -rf runs/real/model && cp -r runs/real/discriminative/seed-0/model runs/real/model
	$(BIN)/omnisent report runs/real --out runs/real/report.html
	$(BIN)/python examples/score_text.py "I loved every minute of it." "It was a waste of two hours." "The movie starts at nine."

# Files in their order: the few long tests of experiments/ and hub/ come first, so that neither process waits for the other at the end.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: lint test

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow --durations=10 --numprocesses auto --maxprocesses 4 --dist load

test-browser: install
	$(BIN)/python -m pytest -q -m browser

# A core of the suite with the lowest version of each direct dependency that pyproject.toml allows.
test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q $(LOWEST_TESTS)

LOWEST_TESTS := tests/evaluation tests/data tests/readouts tests/test_cli.py tests/test_configuration_omnisent.py \
	tests/test_processing_omnisent.py tests/test_modeling_omnisent.py tests/test_pipeline_omnisent.py tests/training/test_trainer.py

.venv-lowest/installed: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-lowest/requirements.txt -e .
	@touch $@

mutate: install
	nice -n 10 $(BIN)/python tests/mutate.py

fuzz: install
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.run --out runs/fuzz

bench: install runs/demo/model
	for name in preprocessing scoring serving; do $(BIN)/python benchmarks/$$name.py runs/demo/model || exit 1; done
	for name in explain towers feature_cache media_check step step_memory readouts growth; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/summary.py

runs/demo/model:
	$(MAKE) demo

wheel: install
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

lint: install types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The checker needs a folder that is named as the package; a clone may have any name.
types: install
	@mkdir -p .venv/types && ln -sfn ../.. .venv/types/omnisent
	MYPYPATH=.venv/types $(BIN)/mypy

# The documentation as a site, in build/site/. A broken link or an unknown page is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-lowest runs build dist *.egg-info
