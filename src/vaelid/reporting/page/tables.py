"""The tables of a run's page: every number with its error, its bound, and the side on which it errs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vaelid.auditing.findings import Finding
from vaelid.evaluation.precision import decoder_words, error_words
from vaelid.reporting.page.facts import RunFacts
from vaelid.reporting.page.remarks import with_error
from vaelid.reporting.scores import with_its_error
from vaelid.scoring.score import QUANTITIES, score_name

Number = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of words; a column whose name begins with ``>`` holds numbers. ``notes`` stand below it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)


def certificates(run: RunFacts) -> Table:
    """Every likelihood that the folder has, with its certificate."""
    found = run.found
    nll, bound, bits = found["nll"], found["neg_elbo"], found["bits_per_dim"] or {}
    rows = [
        _bound(f"−ELBO, S = {bound['samples']}", bound, bits.get("neg_elbo"), bound["direction"]),
        _bound(f"nll, importance-weighted, K = {nll['samples']:,}{decoder_words(nll)}", nll, bits.get("nll"), nll["direction"]),
    ]
    rows += _annealed(found["ais"], found["images"]) if "ais" in found else []
    if run.bdmc:
        for side, errs in (
            ("lower", "lower bound on log p(x) in expectation"),
            ("upper", "upper bound on log p(x) in expectation"),
        ):
            number = run.bdmc[side]
            rows.append(_bound(f"BDMC {side}, log p ({run.bdmc['images']:,} images of the model)", number, None, errs))
    for name, yardstick in found.get("yardsticks", {}).items():
        rows.append(_bound(name.replace("_", " "), yardstick, None, "exact; knows each pixel's own distribution"))
    if found.get("floor"):
        rows.append(
            (f"floor: {found['floor']['what']}", f"{found['floor']['value']:.3f}", "", "", "", "no expected value can be lower")
        )
    columns = ("quantity", ">nats per image", ">± s.e.", ">Monte Carlo error", ">bits/dim", "on which side it errs")
    notes = (
        "± s.e. is about the choice of test images; the Monte Carlo error about the noise of the estimate itself. "
        "−ELBO is never called a likelihood: it is above −log p(x) by KL(q(z|x) ‖ p(z|x)).",
    )
    return Table(f"Bounds on {found['images']:,} test images", columns, rows, notes)


def _annealed(ais: Mapping[str, Any], images: int) -> list[tuple[str, ...]]:
    """AIS beside the importance-weighted bound of the same images; where these are not those of the other rows, it says so."""
    beside, count = ais["importance"], f"{ais['images']:,}"
    others = f"; only {count} images: not to be compared with the rows above" if ais["images"] != images else ""
    samples = f"K = {beside['samples']:,}{decoder_words(beside)}"
    return [
        _bound(f"AIS, {count} images", ais, None, ais["direction"] + others),
        _bound(f"nll of these {count} images, {samples}", beside["nll"], None, ais["direction"]),
        _bound("nll − AIS, paired", beside["above_ais"], None, "what the importance-weighted bound misses at least, if positive"),
    ]


def convergence_in_samples(run: RunFacts) -> Table:
    """The importance-weighted bound with 1, 10, 100 … of the same samples."""
    points = run.found["nll"]["curve"]
    rows = [(f"{point['samples']:,}", f"{point['value']:.3f}", _error(point["se"])) for point in points]
    return Table("The nll with fewer of the same samples", (">K", ">nats per image", ">± s.e."), rows)


def trust(run: RunFacts) -> list[tuple[str, str]]:
    """How far to believe the importance-weighted bound: names and words."""
    nll, data = run.found["nll"], run.found["data"]
    said: list[tuple[str, str]] = []
    shortened = error_words(nll)
    if shortened is not None:
        said.append(("precision", shortened))
    if "effective_samples" in nll:
        ess, tail, last = nll["effective_samples"], nll["pareto_k"], nll["last_doubling"]
        said.append(
            ("effective samples", f"{ess['mean']:.0f} of {ess['of']:,} per image on average (median {ess['median']:.0f})")
        )
        share, limit = tail.get("share_above_threshold"), tail.get("threshold")
        if share is not None and limit is not None:
            said.append(
                ("Pareto k̂", f"median {tail['median']:.2f}; above {limit:.2f}, too heavy a tail, for {share:.1%} of the images")
            )
        if last["gain"] is not None:
            error = f" ± {last['se']:.4f}" if last["se"] is not None else ""
            verdict = "still rising: more samples give a tighter bound" if last["still_rising"] else "settled"
            said.append(
                (
                    "last doubling",
                    f"K = {last['from']:,} to {last['to']:,}: the bound rose by {last['gain']:.4f}{error} nats; {verdict}",
                )
            )
    said += [
        ("pixels", f"{data['support']}; protocol: {data['protocol']}"),
        ("test images", f"SHA-256 {data['fingerprint']}"),
        ("weights", f"SHA-256 {run.found['environment']['weights']}"),
        ("noise seed", str(run.found["seed"])),
        ("numbers are", "log probabilities" if run.discrete else "log densities"),
    ]
    if run.found.get("guards"):
        passed = sum(guard["verdict"] == "pass" for guard in run.found["guards"])
        said.append(("guards before the numbers", f"{passed} of {len(run.found['guards'])} passed"))
    return said


def beyond(run: RunFacts) -> Table | None:
    """Gaps and the aggregate posterior, where they were measured."""
    rows = []
    gaps, aggregate = run.found.get("gaps"), run.found.get("aggregate")
    if gaps:
        about = {
            "inference": "log p(x) − ELBO: all that the ELBO loses",
            "approximation": f"of it the family's ({gaps['family']})",
            "amortization": "of it the encoder's; understated",
        }
        rows += [(f"{name} gap", f"{gaps[name]['value']:.3f}", _error(gaps[name]["se"]), words) for name, words in about.items()]
    if aggregate:
        about = {
            "mutual_information": f"of image and latent, at most {aggregate['ceiling']:.2f}",
            "marginal_kl": "KL(q(z) ‖ p(z)) of the aggregate posterior",
        }
        rows += [
            (name.replace("_", " "), f"{aggregate[name]['value']:.3f}", _error(aggregate[name]["monte_carlo_se"]), words)
            for name, words in about.items()
        ]
    columns = ("quantity", ">nats per image", ">± error", "what it is")
    return Table("Where the ELBO loses, and what the latents carry", columns, rows) if rows else None


def findings(run: RunFacts, verdicts: Sequence[str]) -> Table:
    """The audit's findings with one of these verdicts."""
    chosen = [Finding(**finding) for finding in run.audit["findings"] if finding["verdict"] in verdicts]
    rows = [(finding.part, finding.test, finding.verdict, finding.evidence, finding.words) for finding in chosen]
    return Table(
        f"{len(rows)} hypotheses: {' or '.join(verdicts)}", ("part", "test", "verdict", "evidence", "what it means"), rows
    )


def quality(run: RunFacts) -> Table:
    """All scores between their two anchors."""
    found = run.scores
    about = {score_name(quantity, found["extractor"]["name"]): known.about for quantity, known in QUANTITIES.items()}
    rows = [
        (score, *(with_its_error(row[who]) for who in ("model", "real", "trivial")), row["better"], about[score])
        for score, row in found["scores"].items()
    ]
    columns = ("score", ">this model", ">real images", ">independent pixels", "better", "what it is")
    return Table(f"{found['images_per_set']:,} images per set; {found['pixels']}", columns, rows, tuple(_about_scores(found)))


def settings(run: RunFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every setting of the recipe by section."""
    return [
        (section, [(key, _plain(value)) for key, value in values.items()])
        for section, values in run.recipe.to_dict().items()
        if values
    ]


def provenance(run: RunFacts) -> list[tuple[str, str]]:
    """Where the run and its numbers were made."""
    about = run.about
    rows = [
        ("vaelid", f"{about['vaelid']}, commit {about['commit'] or 'not known (an installed package)'}"),
        ("PyTorch, Python, NumPy", f"{about['torch']}, {about.get('python', '?')}, {about.get('numpy', '?')}"),
        ("machine", f"{about['processor']}; {about.get('system', '')}; device {about['device']}"),
        ("engine, threads, number type", f"{about['engine']}, {about['threads']}, {about.get('dtype', '?')}"),
        ("seed", f"{run.recipe.training.seed} (weights, order, noise)"),
        ("data", f"{about['data']['name']}, SHA-256 {about['data']['fingerprint']}"),
        ("how training ended", about.get("outcome") or "not finished: the same train command goes on"),
    ]
    for name, digest in run.recipe.code.items():
        rows.append((f"user code {name}", f"SHA-256 {digest}"))
    made = {"evaluated": run.found, "audited": run.audit, "scored": run.scores}
    for done, entry in made.items():
        if entry:
            by = entry["environment"]
            rows.append(
                (f"{done} by", f"vaelid {by['vaelid']}, commit {by['commit'] or 'not known'}, {by['processor']}, {by['device']}")
            )
    return rows


def _bound(name: str, number: Number, bits: float | None, errs: str) -> tuple[str, ...]:
    shown = f"{bits:.4f}" if bits is not None else ""
    return name, f"{number['value']:.3f}", _error(number.get("se")), _error(number.get("monte_carlo_se"), 4), shown, errs


def _about_scores(found: Mapping[str, Any]) -> Iterator[str]:
    extractor, sets = found["extractor"], found["sets"]
    yield (
        "Two anchors on the same scale: real images that no model made (the best that can be hoped for), and independent pixels "
        "(what a model has to beat). "
        f"All against {sets['reference']['split']} images; real images are {sets['real']['split']} images; ± is a standard "
        f"error, seed {found['seed']}."
    )
    known = f"Features: {extractor['name']}, SHA-256 {extractor['sha256'][:12]}…"
    if "test_accuracy" in extractor:
        known += f", trained on {extractor['trained_on']:,} labeled images, {extractor['test_accuracy']:.2%} of test images right"
    yield f"{known}. Scores of other features do not compare."
    if "means" in found["pixels"]:
        yield "The model's images are pixel means, which are no samples of it: the real ones are not averaged."


def _error(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value) or "–"


def _audited(findings: Sequence[Mapping[str, Any]]) -> str:
    """``59 hypotheses tested, none failed; 5 skipped``."""
    counts = Counter(finding["verdict"] for finding in findings)
    tested = len(findings) - counts["skipped"]
    said = f"{tested} hypothes{'is' if tested == 1 else 'es'} tested, {counts['fail'] or 'none'} failed"
    others = [f"{counts[verdict]} {verdict}" for verdict in ("undecided", "skipped") if counts[verdict]]
    return "; ".join([said, *others])


def headline(run: RunFacts) -> list[tuple[str, str, str]]:
    """The figures that stand on top: name, value, and what it is."""
    tiles = []
    if run.found:
        nll, bound = run.found["nll"], run.found["neg_elbo"]
        bits = f"{run.found['bits_per_dim']['nll']:.3f} bits/dim; " if run.discrete else "a density; "
        tiles.append(("nll, test", with_error(nll), f"{bits}bound with K = {nll['samples']:,}{decoder_words(nll)}, errs upward"))
        tiles.append(("−ELBO, test", with_error(bound), f"distortion {bound['distortion']:.2f} + rate {bound['rate']:.2f}"))
    elif run.curve.best is not None:
        tiles.append(("−ELBO, validation", f"{run.curve.best:.2f}", f"best, epoch {run.curve.best_epoch}"))
    if run.audit:
        tiles.append(("audit", run.audit["verdict"], _audited(run.audit["findings"])))
    if run.scores:
        name = score_name("fd", run.scores["extractor"]["name"])
        row = run.scores["scores"][name]
        tiles.append(
            (
                name,
                f"{row['model']['value']:.3g}",
                f"real {row['real']['value']:.3g}, independent pixels {row['trivial']['value']:.3g}",
            )
        )
    return tiles
