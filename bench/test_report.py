"""Reports say what the results say, and the pages what the committed results say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gosvae_bench.curves import (
    RESULTS,
    bytes_for,
    dominated,
    front,
    load_results,
    rate_difference,
    tokens_of,
)
from gosvae_bench.pictures import plot_frontier, plot_quality
from gosvae_bench.report import (
    PAGE,
    coverage,
    differences,
    losses,
    others,
    render,
    studies,
    summary,
)

BUNDLE = "ours"


def row(codec: str, setting: str, size: float, miou: float, **more: Any) -> dict[str, Any]:
    return {
        "codec": codec,
        "setting": setting,
        "sends": "pixels",
        "expert": "e",
        "bytes_per_frame": size,
        "wire_bytes_per_frame": size + 114,
        "miou": miou,
        "miou_ci95": [miou - 0.01, miou + 0.01],
        "agreement": miou,
        "agreement_ci95": [miou - 0.01, miou + 0.01],
        "vehicle_macs": 0,
        "receiver_macs": 2_000_000_000,
        "encode_ms": 2.0,
        "encode_ms_p95": 3.0,
        "decode_ms": 30.0,
        "decode_ms_p95": 40.0,
        "encode_mb": 10.0,
        "decode_mb": 100.0,
        "key": f"{codec}; {setting}",
        **more,
    }


def some_results() -> dict[str, Any]:
    ours = {"sends": "tokens", "expert": None, "vehicle_macs": 1_600_000_000, "encode_ms": 25.0}
    rows = [
        row("PNG", "lossless, 4x3", 300_000, 0.75, agreement=1.0),
        *(row("JPEG", f"quality {n}, 4x3", 1000 * 2**n, 0.4 + 0.05 * n) for n in range(7)),
        *(row("AVIF", f"quality {n}, 4x3", 500 * 2**n, 0.4 + 0.05 * n) for n in range(7)),
        row("expert's labels", "1/4", 500, 0.74, sends="labels", expert=None),
        row(BUNDLE, "1 level, predicted", 300, 0.68, **ours),
        row(BUNDLE, "2 levels, predicted", 800, 0.69, **ours),
        row(BUNDLE, "2 levels, intra", 1200, 0.69, **ours),
    ]
    data = {"frames": 3, "size": "4x3", "sha256": "ab" * 32}
    about = {"data": data, "expert": "e", "reference": BUNDLE}
    machine = {"machine": {"cpu": "a CPU", "cores": 2}, "versions": {"av": "1"}}
    return {**about, **machine, "date": "2026-11-23", "rows": rows, "studies": {}}


def of(codec: str) -> list[dict[str, Any]]:
    return [each for each in some_results()["rows"] if each["codec"] == codec]


def test_only_what_nothing_beats_is_in_front() -> None:
    rows = [
        row("a", str(n), *pair) for n, pair in enumerate([(9, 0.5), (5, 0.5), (7, 0.4), (3, 0.2)])
    ]
    assert [each["bytes_per_frame"] for each in front(rows)] == [3, 5]
    assert dominated(rows[0], rows[1:]) == [rows[1]]


def test_bytes_for_a_quality_lie_between_settings() -> None:
    assert bytes_for(of("JPEG"), 0.5) == pytest.approx(4000)
    assert 4000 < bytes_for(of("JPEG"), 0.52) < 8000
    assert bytes_for(of("JPEG"), 0.1) == pytest.approx(1000)
    assert bytes_for(of("JPEG"), 0.71) is None


def test_half_the_bytes_are_fifty_percent_less() -> None:
    assert rate_difference(of("JPEG"), of("AVIF")) == pytest.approx(-50)
    assert rate_difference(of("JPEG"), of("JPEG")) == pytest.approx(0)
    assert rate_difference(of("JPEG"), of("PNG")) is None


def test_losses_name_what_is_cheaper_and_better() -> None:
    text = losses(some_results())
    assert "expert's labels, 1/4: 0.740 mIoU at 500 bytes** beats 2 levels" in text
    assert "beats 1 level of" not in text
    assert "(0.690), without a network in the vehicle: PNG 0.750 at 300000 bytes in 2 ms" in text
    assert "JPEG 0.700 at 64000 bytes" in text


def test_tokens_count_as_sent_the_cheaper_way() -> None:
    results = some_results()
    assert [each["setting"] for each in tokens_of(results)] == [
        "1 level, predicted",
        "2 levels, predicted",
    ]
    results["rows"].append({**of(BUNDLE)[0], "setting": "1 level, intra", "bytes_per_frame": 250})
    assert [each["bytes_per_frame"] for each in tokens_of(results)] == [250, 800]


def test_a_tuned_expert_stands_beside_the_bundles() -> None:
    results = some_results()
    better = [row("JPEG", f"quality {n}, 4x3", 1000 * 2**n, 0.45 + 0.05 * n) for n in range(6)]
    for each in better:
        each |= {"expert": "tuned", "key": f"{each['key']}; tuned"}
    results["rows"] += [*better, row("JPEG", "tiny, 4x3", 700, 0.695, expert="tuned", key="t")]
    lines = {line.split(" | ")[0]: line for line in summary(results).splitlines()}
    assert "/ 700 |" in lines["| JPEG"] and "| 0.700 / 0.700 |" in lines["| JPEG"]
    assert "/" not in lines["| AVIF"] and "/" not in lines[f"| tokens of {BUNDLE}, intra"]
    assert coverage(results) == "- `e`: PNG 1, JPEG 7, AVIF 7.\n- `tuned`: JPEG 7."
    # That expert has not seen AVIF at settings that could tell.
    results["rows"].append(row("AVIF", "quality 1, 4x3", 1000, 0.45, expert="tuned", key="u"))
    avif = next(line for line in summary(results).splitlines() if line.startswith("| AVIF"))
    assert avif.count("/ ?") == 2 and "| 0.700 / 0.450 |" in avif
    text = losses(results)
    assert "**JPEG, tiny, 4x3, seen by tuned: 0.695 mIoU at 700 bytes** beats 2 levels of" in text
    # Nobody is compared at sizes that it was not measured at.
    results["rows"].append(row("JPEG", "quality 1, 2x1", 100, 0.69, key="half"))
    table = {line.split(" | ")[0]: line for line in differences(results).splitlines()}
    assert "| AVIF | -50% |" in table["| AVIF"]
    assert re.fullmatch(
        r"\| JPEG \| \+0% \| 0\.690-0\.700 \| -\d\d% \| 0\.695-0\.700 \|", table["| JPEG"]
    )


def test_every_bundle_of_tokens_has_its_losses_told() -> None:
    results = some_results()
    more = {"sends": "tokens", "expert": None, "vehicle_macs": 150_000_000}
    results["rows"].append(row("light", "1 level, predicted", 5000, 0.5, **more))
    assert "light" not in losses(results)
    text = others(results)
    assert "beats 1 level of light, 0.500 at 5000 bytes" in text
    assert text.count("beats 1 level of light") == 3, "by JPEG, AVIF and labels, each once"


def test_studies_are_shown_where_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(some_results()))
    none = load_results(tmp_path / "results.json", tmp_path / "studies")
    assert studies(none) == "None of these has been trained yet."
    (tmp_path / "studies").mkdir()
    figures = {
        "miou": 0.41234,
        "agreement": 0.5,
        "judges": {"lite0": 0.41234},
        "payload_bytes": 1012.5,
        "compression_ratio": 512.0,
        "vehicle_macs": 1_500_000_000,
        "receiver_macs": 9_000_000_000,
        "training": "100 steps of 4 crops of 128x96",
        "cpu_minutes": 0.56,
    }
    study = {
        "title": "Baselines",
        "date": "2026-11-23",
        "data": "CamVid val, 101 frames at 480x360",
        "experts": {"lite0": 0.757},
        "command": "python -m gosvae_training.studies.run",
        "rows": {"VQ-VAE": figures, "autoencoder": figures},
    }
    (tmp_path / "studies" / "paper.json").write_text(json.dumps(study))
    unlike = {**study, "rows": {"direct": {"judged": {}}}}
    (tmp_path / "studies" / "tasks.json").write_text(json.dumps(unlike))
    found = load_results(tmp_path / "results.json", tmp_path / "studies")
    text = studies(found)
    assert text.startswith("*Baselines* (CamVid val, 101 frames at 480x360, 2026-11-23):")
    assert (
        "| VQ-VAE | 1012 | 0.412 | 0.500 | 1.50 | 9.00 | 100 steps of 4 crops of 128x96 | 0.6 |"
        in text
    )
    plot_quality(none, tmp_path / "none.png")
    plot_quality(found, tmp_path / "some.png")
    assert (tmp_path / "none.png").read_bytes() != (tmp_path / "some.png").read_bytes()


def test_what_is_never_reached_is_said_to_be() -> None:
    results = some_results()
    results["rows"] = [each for each in results["rows"] if each["miou"] < 0.695]
    lines = {line.split(" | ")[0]: line for line in summary(results).splitlines()}
    assert "| never | never | 0.650 |" in lines["| JPEG"]
    assert "| 300 | 800 | 0.690 | 1.60 | 25.0 |" in lines[f"| tokens of {BUNDLE}, predicted"]


def test_pages_are_filled_between_their_marks(tmp_path: Path) -> None:
    text = "a\n<!-- benchmark: setup -->\nold\n<!-- end -->\nb\n"
    filled = render(text, some_results())
    assert "3 frames of 4x3" in filled and "old" not in filled
    assert render(filled, some_results()) == filled
    with pytest.raises(KeyError, match="nonsense"):
        render(text.replace("setup", "nonsense"), some_results())
    plot_quality(some_results(), tmp_path / "quality.png")
    plot_frontier(some_results(), tmp_path / "frontier.png")
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 10_000


def test_the_page_says_what_the_committed_results_say() -> None:
    text = PAGE.read_text()
    assert re.search(r"<!-- benchmark: \w+ -->", text)
    assert render(text, load_results()) == text, "run python -m gosvae_bench.report in bench/"


def test_committed_results_are_whole() -> None:
    rows = json.loads(RESULTS.read_text())["rows"]
    assert len({each["key"] for each in rows}) == len(rows)
    for each in rows:
        assert each["miou_ci95"][0] <= each["miou"] <= each["miou_ci95"][1]
        assert each["bytes_per_frame"] < each["wire_bytes_per_frame"]
        assert each["encode_ms"] <= each["encode_ms_p95"]
        # What is sent the same has one encoder; decoding may still wait for its pass.
        assert (each["decode_ms"] is None) == (each["decode_ms_p95"] is None)
