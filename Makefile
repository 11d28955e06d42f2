# Every target sets up what it needs, once. Recipes read their arguments (INPUT, DATA, ...) from the
# environment, where make puts them, so that they may hold spaces and quotes.

SHELL := bash
RUN := python3 tools/ros_environment.py --exec
VIEW := python3 tools/ros_environment.py --with view --exec
FLEET := python3 tools/ros_environment.py --with fleet,view,bench,dev --exec
BENCH := python3 tools/ros_environment.py --with bench --exec
DEV := python3 tools/ros_environment.py --with view,bench,dev --exec
# Runs a module of bench/ in an environment, where Python finds that folder.
IN_BENCH := sh -c 'PYTHONPATH="$$0$${PYTHONPATH:+:$$PYTHONPATH}" exec python -m "$$@"' "$(CURDIR)/bench"
TRAIN := python3 tools/environment.py training --exec
STREETS := python3 tools/environment.py streets --exec
CONFIG ?= training/configs/camvid-f16.yaml
MEASURED_BUNDLE := models/camvid-base-layered

# Plugins that come along with the ROS 2 wheels and installations clash with current pytest.
PYTEST := env PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python -m pytest

.PHONY: help demo view fleet test test-fleet test-slow test-training test-streets lint reference adapt train evaluate sweep \
	bench bench-pipeline bench-fleet bench-uplink streets shell lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo                 replay a drive through the pipeline; prints a table and pictures"
	@echo "  INPUT=PATH              a rosbag2, video or folder of images instead of the drive that ships"
	@echo "  TOPIC=NAME              the image topic of the bag, if it has several"
	@echo "  BUNDLE=DIR              another model bundle than models/road"
	@echo "  JSON=FILE               write the figures there as well"
	@echo "  LABELS=SPACE            what ids in the drive's labels mean, if not Cityscapes' train ids"
	@echo "  LINK=SPEC               over a bad link, as \"loss=10% delay=50ms rate=128kbit\"; needs root"
	@echo "make view                 the same drive in a loop, in the browser, until Ctrl-C"
	@echo "  INPUT, TOPIC, BUNDLE    as above"
	@echo "make fleet                ten simulated vehicles and a service for them, until Ctrl-C"
	@echo "  VEHICLES=N RATE=N       how many, and frames a second of each; BUNDLE as above"
	@echo "  PAGE=1                  masks in the browser as well"
	@echo "  SECONDS=N JSON=FILE     end after N seconds of all vehicles; figures in a file"
	@echo "make shell                a shell in which ros2_ws is built and sourced"
	@echo
	@echo "make test                 tests that take seconds; test-slow, test-training, test-streets: others"
	@echo "make test-fleet           those of uplink and fleet, with Zenoh and Ray"
	@echo "  ARGS=...                arguments of pytest, as \"tests/test_nodes.py -k parity\""
	@echo "make lint                 ruff and mypy"
	@echo "make reference            write docs/reference.md from the code"
	@echo "make lock                 write requirements.lock from pyproject.toml; ARGS=--upgrade for news"
	@echo
	@echo "make adapt                a bundle for your camera and your segmentation network, without labels"
	@echo "  DRIVE=PATH EXPERT=FILE  a bag, video or folder of images, or DRIVE='A B' of several; an ONNX file"
	@echo "  LABELS=FILE             YAML of its classes, or camvid, cityscapes, ade20k, coco"
	@echo "  MINUTES=N OUTPUT=DIR    that it may take, 10 if not given; where the bundle goes, models/mine"
	@echo "  BUDGET=NAME START=DIR   base or tiny; a bundle to go on from"
	@echo "  PICTURES, ORDER, TOPIC  what the network takes, if it is not told rightly; of a bag"
	@echo "  JSON=FILE               write agreement, bytes_per_frame and bundle there"
	@echo
	@echo "make train DATA=PATH      train a model bundle on CamVid at PATH, and export it"
	@echo "  CONFIG=FILE             with another configuration than $(CONFIG)"
	@echo "  DATA='NAME=PATH ...'    where that names several datasets; quote paths that hold spaces"
	@echo "  ARGS=...                NAME=VALUE of the configuration, and options of training"
	@echo "make evaluate DATA=PATH   measure a bundle on a dataset, bag, video or folder of images at PATH"
	@echo "  SPLIT=NAME              of a dataset: train, val (the default) or test"
	@echo "  BUNDLE=DIR, JSON=FILE   another bundle than $(MEASURED_BUNDLE); figures in a file"
	@echo "make streets ARGS=...     render labelled drives; ARGS='render --help' tells more"
	@echo
	@echo "make sweep DATA=PATH      what bad links leave of the masks, beside JPEG and H.264; resumes"
	@echo "  BUNDLE=DIR, OUTPUT=DIR  another bundle; another folder than out/sweep"
	@echo "make bench DATA=PATH      all codecs and this one, on the labelled frames at PATH; resumes"
	@echo "  MODELS=DIR              other bundles than those in models"
	@echo "  BUNDLE=DIR, JSON=FILE   another bundle; another file than out/benchmark.json"
	@echo "  QUICK=1                 fewer settings"
	@echo "make bench-pipeline       latency, rate, CPU and memory over DDS, beside JPEG and raw images; resumes"
	@echo "  BUNDLE, JSON, QUICK     as above; the file is out/pipeline.json"
	@echo "make bench-fleet          streams that a fleet's service and a receiver hold here; what failures cost"
	@echo "  BUNDLE, JSON, QUICK     as above; the file is out/fleet.json"
	@echo "  FLOOD=1                 only what a vehicle that floods costs the others"
	@echo "  SOAK=N                  only the service's memory, over N seconds"
	@echo "make bench-uplink         packets that arrive over QUIC and DDS on a bad link; needs root"
	@echo "  LINK=SPEC               another than \"loss=10% delay=50ms\""
	@echo "  JSON=FILE SECONDS=N     another file than out/uplink.json; of each, 120 if not given"
	@echo
	@echo "make clean                delete environment, build and out; not runs nor the other environments"
	@echo "PYTHON=PATH with any of them names the Python to use, 3.10 to 3.13"

demo:
	@$(RUN) gosvae demo $${INPUT:+--input "$$INPUT"} $${TOPIC:+--topic "$$TOPIC"} $${JSON:+--json "$$JSON"} \
		$${LABELS:+--labels "$$LABELS"} $${LINK:+--link "$$LINK"} $${BUNDLE:+--bundle "$$BUNDLE"}

view:
	@$(VIEW) gosvae run --bag "$${INPUT:-drives/street.mcap}" $${TOPIC:+--topics "$$TOPIC"} \
		$${BUNDLE:+--bundle "$$BUNDLE"} --loop --view

fleet:
	@$(FLEET) python -m gosvae_fleet.demo $${VEHICLES:+--vehicles "$$VEHICLES"} $${RATE:+--rate "$$RATE"} \
		$${BUNDLE:+--bundle "$$BUNDLE"} $(if $(SECONDS),--seconds "$(SECONDS)") $${JSON:+--json "$$JSON"} \
		$${PAGE:+--view}

test:
	@$(DEV) $(PYTEST) -m "not slow" $(ARGS)

test-slow:
	@$(DEV) $(PYTEST) -m slow $(ARGS)

test-fleet:
	@$(FLEET) $(PYTEST) $(or $(ARGS),ros2_ws/src/gosvae_fleet/test)

test-training:
	@$(TRAIN) $(PYTEST) $(or $(ARGS),training/tests)

test-streets:
	@$(STREETS) $(PYTEST) $(or $(ARGS),training/streets/tests)

streets:
	@$(STREETS) python -m gosvae_streets $(ARGS)

lint:
	@$(DEV) ruff check
	@$(DEV) ruff format --check
	@$(DEV) mypy

reference:
	@$(VIEW) python tools/reference.py

# DRIVE, EXPERT and LABELS may be one path with spaces, or several that the shell would split.
adapt:
	@test -n "$$DRIVE" -a -n "$$EXPERT" -a -n "$$LABELS" || { \
		echo "make adapt DRIVE=PATH EXPERT=net.onnx LABELS=names.yaml: give all three" >&2; exit 1; }
	@split() { local -n paths=$$1; paths=("$$2"); test -e "$$2" || eval "paths=($$2)"; }; \
	split drives "$$DRIVE"; split experts "$$EXPERT"; split labels "$$LABELS"; \
	$(TRAIN) python -m gosvae_training.adapt --drive "$${drives[@]}" --expert "$${experts[@]}" \
		--labels "$${labels[@]}" \
		$${START:+--start "$$START"} $${BUDGET:+--budget "$$BUDGET"} $${MINUTES:+--minutes "$$MINUTES"} \
		$${OUTPUT:+--output "$$OUTPUT"} $${PICTURES:+--pictures $$PICTURES} $${ORDER:+--order $$ORDER} \
		$${TOPIC:+--topic "$$TOPIC"} $${JSON:+--json "$$JSON"} $(ARGS)

# Export takes the same NAME=VALUE as training, but not its options.
train:
	@test -n "$$DATA" || { echo "make train DATA=PATH: PATH is the folder of CamVid" >&2; exit 1; }
	@data=(); values=(); \
	if [ -d "$$DATA" ]; then data=(--data "$$DATA"); \
	else eval "set -- $$DATA"; for each; do data+=(--data "$$each"); done; fi; \
	set -- $(ARGS); for each; do case "$$each" in -*) ;; *=*) values+=("$$each");; esac; done; \
	$(TRAIN) python -m gosvae_training.train "$(CONFIG)" "$${data[@]}" "$$@" && \
	$(TRAIN) python -m gosvae_training.export "$(CONFIG)" "$${data[@]}" "$${values[@]}"

evaluate:
	@$(call need_data,evaluate,a dataset)
	@$(TRAIN) python -m gosvae_training.evaluate "$${BUNDLE:-$(MEASURED_BUNDLE)}" --data "$$DATA" \
		$${SPLIT:+--split "$$SPLIT"} $${JSON:+--json "$$JSON"} $(ARGS)

sweep:
	@$(call need_data,sweep,CamVid)
	@$(BENCH) $(IN_BENCH) gosvae_bench.link_sweep --bundle "$${BUNDLE:-$(MEASURED_BUNDLE)}" --data "$$DATA" \
		$${OUTPUT:+--output "$$OUTPUT"}

bench:
	@$(call need_data,bench,a folder of labelled frames)
	@$(BENCH) $(IN_BENCH) gosvae_bench.rate_quality --reference "$${BUNDLE:-$(MEASURED_BUNDLE)}" --data "$$DATA" \
		$${MODELS:+--models "$$MODELS"} $${JSON:+--json "$$JSON"} $${QUICK:+--quick}

bench-pipeline:
	@$(BENCH) $(IN_BENCH) gosvae_bench.system --bundle "$${BUNDLE:-$(MEASURED_BUNDLE)}" $${JSON:+--json "$$JSON"} \
		$${QUICK:+--quick}

bench-fleet:
	@$(FLEET) $(IN_BENCH) gosvae_bench.fleet $${BUNDLE:+--bundle "$$BUNDLE"} $${JSON:+--json "$$JSON"} \
		$${QUICK:+--quick} $${FLOOD:+--flood} $${SOAK:+--soak "$$SOAK"}

bench-uplink:
	@$(FLEET) $(IN_BENCH) gosvae_bench.uplink $${LINK:+--link "$$LINK"} $${JSON:+--json "$$JSON"} \
		$(if $(SECONDS),--seconds "$(SECONDS)")

shell:
	@$(VIEW) "$${SHELL:-bash}"

# torch stays out, as its builds differ by machine; what lies in this repository has no version.
# Streets have a lock of their own: Blender asks for numpy 1.
LOCK := .uv/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	$(addprefix --no-emit-package ,torch gosvae-codec gosvae-common gosvae-tools \
	gosvae-training gosvae-streets)

lock:
	@$(RUN) $(LOCK) --python-version 3.10 --output-file requirements.lock $(ARGS) \
		$(addprefix --group ,runtime build cpu gpu view bench fleet dev training) \
		tools/ros2-jazzy-wheels.txt >/dev/null
	@$(RUN) $(LOCK) --python-version 3.11 --output-file training/streets/requirements.lock $(ARGS) \
		--group streets >/dev/null

clean:
	rm -rf .venv .uv out ros2_ws/build ros2_ws/install ros2_ws/log
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . \( -path ./.venv-training -o -path ./.venv-streets \) -prune -o -name __pycache__ -exec rm -rf {} +

need_data = test -e "$$DATA" || \
	{ echo "make $(1) DATA=PATH: PATH is where $(2) lies, not '$$DATA'" >&2; exit 1; }
