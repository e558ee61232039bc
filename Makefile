# make demo   sets up, explains a photograph, and runs every paper's part on the embedded set: tables, figures and pages in figures/demo
# make embedded runs more of it, on four networks, as the graph of jobs that a cluster would run
# make test   sets up and runs every test: notebooks, then pytest
# make sample runs the sample study on real networks and photographs, where ../shared/realdata is, and its report in figures/sample
# make bench  measures speed and memory beside the bare calls and four other packages, into figures/benchmarks
# make notebooks executes the notebooks whose code changed; they are committed with their outputs
# make site   writes the executed notebooks as plain HTML pages with one index, into _site/
# make docs   makes nbdev's site of them, with search and every function's documentation, into _docs/, where Quarto is installed
# make isa    runs what is most sensitive to rounding as on a processor without AVX-512
# make clean  removes what these made

PYTHON  ?= python3
BIN     := .venv/bin
READY   := .venv/.ready
INSTALL := VIRTUAL_ENV=.venv $(BIN)/uv pip install
STUDY   := $(BIN)/snakemake --snakefile workflow/Snakefile --profile workflow/profiles/local --configfile
FIT     := $(BIN)/snakemake --snakefile workflow/Fitting --profile workflow/profiles/local --configfile

.PHONY: demo embedded test isa sample bench setup notebooks site docs readme check clean

demo: setup
	$(BIN)/idgi-repro demo

embedded: setup
	$(STUDY) workflow/config/embedded.yaml
	$(STUDY) workflow/config/embedded_recalibration.yaml
	$(FIT) workflow/config/embedded_densities.yaml

test: setup
	$(BIN)/nbdev_test --n_workers 1 --pause 0 --timing
	$(BIN)/pytest

isa: export ATEN_CPU_CAPABILITY = avx2
isa: export ONEDNN_MAX_CPU_ISA = AVX2
isa: setup
	for notebook in paths attribution; do $(BIN)/nbdev_test --path nbs/method/$$notebook.ipynb --do_print || exit 1; done
	$(BIN)/pytest tests/test_parity.py

sample: setup
	$(STUDY) workflow/config/sample.yaml

bench: setup
	$(INSTALL) --quiet -e ".[dev,bench]" -c constraints.txt || $(INSTALL) -e ".[dev,bench]"
	$(BIN)/python benchmarks/bench.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/metrics.py

setup: $(READY)

# the tested versions where they exist for this Python, else whatever the bounds in pyproject.toml admit
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("idgi_repro needs Python 3.11 or newer; call make PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "uv>=0.5"
	$(INSTALL) --quiet -e ".[dev]" -c constraints.txt || $(INSTALL) -e ".[dev]"
	touch $@

notebooks: setup
	$(BIN)/python workflow/notebooks.py execute

site: setup
	$(BIN)/python workflow/website.py

docs: setup
	command -v quarto >/dev/null || { echo "make docs needs Quarto, https://quarto.org; make site needs nothing"; exit 1; }
	$(BIN)/nbdev_docs

# the front page has one source, nbs/index.ipynb, and the files that it says to include
readme: setup
	$(BIN)/idgi-repro study --config workflow/config/imagenet.yaml --dry-run | sed -n '1p;$$p' | sed 's/^/    /' > figures/imagenet_cost.md
	$(BIN)/python -c 'from idgi_repro.report.advice import write; write()'
	$(BIN)/jupyter nbconvert nbs/index.ipynb --to markdown --output README --output-dir . --log-level WARN \
		--TemplateExporter.exclude_output=True --RegexRemovePreprocessor.patterns='^#\|\s*(hide|default_exp)'
	sed -e 's#](\.\./#](#g' -e 's#](\([0-9a-z_/]*\.ipynb\))#](nbs/\1)#g' README.md | \
		awk '/^```$$/ && ++n%2 {print "```python"; next} /^<!-- include / {while ((getline line < $$3) > 0) print line; next} 1' | \
		cat -s > README.tmp && mv README.tmp README.md

# exported package, README and committed notebooks are current, and the notebooks executed
check: setup readme
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean --fname nbs
	git diff --exit-code -- idgi_repro README.md nbs || \
		{ echo "notebooks, package and README are out of step: run make check and commit"; exit 1; }
	$(BIN)/python workflow/notebooks.py check

clean:
	rm -rf .venv .snakemake results figures/demo _site _docs _proc build *.egg-info .pytest_cache .hypothesis
