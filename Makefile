# Every target sets up what it needs, once. Recipes read INPUT, TOPIC, JSON, LINK, DATA and QUICK from
# the environment, where make puts them, so that they may hold spaces and quotes.

RUN := python3 tools/setup_environment.py --exec
BENCH := python3 tools/setup_environment.py --bench --exec
TRAIN := python3 tools/setup_environment.py --training --exec
STREETS := python3 tools/setup_environment.py --streets --exec
CONFIG ?= training/configs/camvid-f16.yaml
BUNDLE ?= models/camvid-base

# Plugins that come along with the ROS 2 wheels and installations clash with current pytest.
PYTEST := env PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python -m pytest

.PHONY: help demo view test test-training test-streets lint reference train evaluate sweep bench bench-pipeline streets shell clean
.DEFAULT_GOAL := help

help:
	@echo "make demo                 replay a drive through the pipeline; prints a table and pictures"
	@echo "  INPUT=PATH              a rosbag2, video or folder of images instead of the drive that ships"
	@echo "  TOPIC=NAME              the bag's image topic, if it has several"
	@echo "  JSON=FILE               write the figures there as well"
	@echo "  LINK=SPEC               over a bad link, as \"loss=10% delay=50ms rate=128kbit\"; needs root"
	@echo "make view                 the same drive in a loop, in the browser, until Ctrl-C; INPUT and TOPIC as above"
	@echo "make test                 all tests but those of training"
	@echo "make lint                 ruff and mypy"
	@echo "make reference            write docs/reference.md from the code"
	@echo "make train DATA=PATH      train a model bundle on CamVid at PATH"
	@echo "  CONFIG=FILE             with another configuration than $(CONFIG)"
	@echo "  DATA='NAME=PATH ...'    where that names several datasets"
	@echo "make evaluate DATA=PATH   measure a bundle on the val split of a dataset at PATH"
	@echo "  BUNDLE=DIR, JSON=FILE   another bundle than $(BUNDLE); figures in a file"
	@echo "make sweep DATA=PATH      what bad links leave of the masks, beside JPEG and H.264; resumes"
	@echo "  BUNDLE=DIR, OUTPUT=DIR  another bundle; where to, instead of out/sweep"
	@echo "make bench DATA=PATH      all codecs and this one, on the labelled frames at PATH; resumes"
	@echo "  JSON=FILE, QUICK=1      results there, instead of out/benchmark.json; fewer settings"
	@echo "make bench-pipeline       latency, rate, CPU and memory over DDS, beside JPEG and raw images; resumes"
	@echo "  JSON=FILE, QUICK=1      results there, instead of out/pipeline.json; fewer rows"
	@echo "make test-training        tests of training"
	@echo "make streets ARGS=...     render labelled drives; ARGS='render --help' tells more"
	@echo "make test-streets         tests of rendering"
	@echo "make shell                a shell in which ros2_ws is built and sourced"
	@echo "make clean                delete what these made, but for training runs, and the environments of training and streets"
	@echo "PYTHON=PATH with any of them names the Python to use, 3.10 to 3.13"

demo:
	@$(RUN) gosvae demo $${INPUT:+--input "$$INPUT"} $${TOPIC:+--topic "$$TOPIC"} $${JSON:+--json "$$JSON"} \
		$${LINK:+--link "$$LINK"}

view:
	@$(RUN) gosvae run --bag "$${INPUT:-drives/street.mcap}" $${TOPIC:+--topics "$$TOPIC"} --loop --view

test:
	@$(BENCH) $(PYTEST)

test-training:
	@$(TRAIN) $(PYTEST) training/tests

test-streets:
	@$(STREETS) $(PYTEST) training/streets/tests

streets:
	@$(STREETS) python -m gosvae_streets $(ARGS)

lint:
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) mypy

reference:
	@$(RUN) python tools/reference.py

train:
	@test -n "$$DATA" || { echo "make train DATA=PATH: PATH is the folder of CamVid"; exit 1; }
	@set --; if [ -d "$$DATA" ]; then set -- --data "$$DATA"; \
	else for each in $$DATA; do set -- "$$@" --data "$$each"; done; fi; \
	$(TRAIN) python -m gosvae_training.train $(CONFIG) "$$@" && \
	$(TRAIN) python -m gosvae_training.export $(CONFIG) "$$@"

evaluate:
	@test -d "$$DATA" || { echo "make evaluate DATA=PATH: PATH is the folder of a dataset, not '$$DATA'"; exit 1; }
	@$(TRAIN) python -m gosvae_training.evaluate $(BUNDLE) --data "$$DATA" $${JSON:+--json "$$JSON"}

sweep:
	@test -d "$$DATA" || { echo "make sweep DATA=PATH: PATH is the folder of CamVid, not '$$DATA'"; exit 1; }
	@$(RUN) python bench/sweep.py --bundle $(BUNDLE) --data "$$DATA" $${OUTPUT:+--output "$$OUTPUT"}

bench:
	@test -d "$$DATA" || { echo "make bench DATA=PATH: PATH is a folder of labelled frames, not '$$DATA'"; exit 1; }
	@$(BENCH) python bench/benchmark.py --reference $(BUNDLE) --data "$$DATA" \
		$${JSON:+--json "$$JSON"} $${QUICK:+--quick}

bench-pipeline:
	@$(RUN) python bench/pipeline.py --bundle $(BUNDLE) $${JSON:+--json "$$JSON"} $${QUICK:+--quick}

shell:
	@$(RUN) "$${SHELL:-bash}"

clean:
	rm -rf .venv out ros2_ws/build ros2_ws/install ros2_ws/log
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . \( -path ./.venv-training -o -path ./.venv-streets \) -prune -o -name __pycache__ -exec rm -rf {} +
