"""A draft report: evidence first, then sentences that say no more than the evidence, each with its confidence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from medfm.data.manifest import REQUEST
from medfm.errors import DataError
from medfm.language.vocabulary import LESIONS, REGIONS, region_of
from medfm.language.wording import read, write
from medfm.predict import airspace, brain
from medfm.predict.called import verb
from medfm.predict.compare import compare
from medfm.predict.contradiction import SINGLE_PICTURES
from medfm.predict.evidence import KINDS, Candidate, Look, look
from medfm.predict.lesions import BRAIN_LESION, LESION_MODEL, LOOKED_FOR, find_lesions
from medfm.predict.registering import register
from medfm.scan import Alignment, Finding, Report, Scan, Section, Sentence

if TYPE_CHECKING:
    from medfm.model import MedFM

__all__ = ["compose", "report", "write_up"]

_LIMITS = {"state": 0.5, "mention": 0.3, "absent": 0.15}
_NOT_IN_VIEW = ("liver", "spleen", "kidney", "heart", "lung", "bladder")  # worth a word where the trunk was imaged


@verb
def report(
    model: MedFM, scan: Scan, *, indication: str | None = None, history: str | None = None, labs: str | None = None,
    prior: Scan | Report | str | None = None, plane: str | None = None,
) -> Report:  # fmt: skip
    """Draft a report of a radiograph, slice or volume.

    What the maps and answers find becomes findings with a calibrated confidence; sentences are made of findings, so
    each carries their evidence. From the adapter's `state` on, a finding is stated; between `mention` and `state` the
    sentence is an abstention; an organ whose lesions all stay below `absent` is called normal.

    indication, history, labs: text, kept in the report; a disease that the first two name gets its own word in the
    impression. prior: an earlier scan, its report, or the text of one; the section Comparison says what changed.
    """
    context = {"indication": indication, "history": history, "labs": labs}
    if model.vision is None:
        return _in_its_own_words(model, scan, context=context, prior=prior, plane=plane)
    return write_up(model, scan, look(model, scan, plane=plane), context=context, prior=prior, plane=plane)


def _in_its_own_words(
    model: MedFM, scan: Scan, *, context: Mapping[str, str | None], prior: Scan | Report | str | None,
    plane: str | None,
) -> Report:  # fmt: skip
    """What a model without an eye of ours writes when asked for findings: read for facts, and without evidence."""
    told = {
        name: text for name, text in {**context, "prior": prior if isinstance(prior, str) else None}.items() if text
    }
    asked = " ".join([*(f"{name}: {' '.join(text.split())}." for name, text in told.items()), REQUEST])
    ((text, logp),) = model.finish(model.read(scan, plane=plane), [asked], limit=256)
    said: dict[str, list[Sentence]] = {}
    for part in re.split(r"(?<=[.!?])\s+", text):
        if part.strip():
            found = tuple(read(part))
            said.setdefault(region_of(found[0].organ if found else None), []).append(
                Sentence(part.strip(), found, (), math.exp(logp))
            )
    sections = tuple(Section(region, tuple(said[region])) for region in [*REGIONS, "Other"] if region in said)
    lesions = [f for part in said.values() for s in part for f in s.findings if f.present and f.finding in LESIONS]
    words = tuple(Sentence(text, members, (), math.exp(logp)) for text, members in write(lesions))
    known = Look(KINDS.get(scan.modality, ""), "", scan.plane or "", {}, ())
    now, comparison = list(lesions), None
    if prior is not None and not isinstance(prior, Scan):
        before = read(prior) if isinstance(prior, str) else [f for s in prior.sentences() for f in s.findings]
        comparison = Section("Comparison", tuple(compare(now, before)))
    elif prior is not None:
        comparison = Section("Comparison", (Sentence("The earlier scan was not shown to this model."),))
    return Report(
        _technique(known, scan, 0.0, Section("Technique")), sections, Section("Impression", words),
        comparison=comparison, context=told, model=model.config.language.rsplit("/", 1)[-1], adapter=model.name,
        version=version("medfm"), scan=scan.content_hash,
    )  # fmt: skip


def write_up(
    model: MedFM, scan: Scan, seen: Look, *, context: Mapping[str, str | None] | None = None,
    prior: Scan | Report | str | None = None, plane: str | None = None,
) -> Report:  # fmt: skip
    """The report of a scan that has been looked at; `report` is this after `look`."""
    limits = {**_LIMITS, **(getattr(model.config, "report", None) or {}).get("limits", {})}
    told = {**(context or {}), "prior": prior if isinstance(prior, str) else None}
    outlines = brain.describe(scan) if brain.is_brain_volume(scan, seen.region) else []
    lungs = airspace.describe(scan)
    seen = _of_brain(seen, scan)
    if lungs:  # by their air they are surer than by a map
        seen = replace(
            seen, candidates=tuple(c for c in seen.candidates if c.group != "organ" or c.finding.organ != "lung")
        )
    asked = " ".join(text for name in ("indication", "history") if (text := told.get(name)))
    draft = compose(seen, limits, asked=asked, needed=model.config.abstain)
    draft = _beginning(_beginning(draft, "Head", outlines), "Chest", lungs)
    comparison = None if prior is None else _comparison(model, draft, seen, scan, prior, limits, plane)
    searched = any(c.finding.finding == BRAIN_LESION for c in seen.candidates)
    wrote = [model.name, *([brain.MODEL] if outlines else []), *([LESION_MODEL] if searched else [])]
    return replace(
        draft, technique=_technique(seen, scan, model.config.abstain, draft.technique), comparison=comparison,
        context={name: text for name, text in told.items() if text}, model=f"medfm with {model.config.language}",
        adapter=", ".join(wrote), version=version("medfm"), scan=scan.content_hash,
    )  # fmt: skip


def compose(seen: Look, limits: Mapping[str, float], *, asked: str = "", needed: float = 0.0) -> Report:
    """The sections that follow from the candidates alone; `technique` holds only what is not in view. needed: how sure
    a volume's organs in view must be, and its part of the body, if that is answered and not read."""
    guessed = _guessed(seen)
    stated = _stated(seen, limits["state"], needed)
    doubtful = [
        c.finding for c in seen.candidates
        if c.finding.finding in LESIONS and limits["mention"] <= (c.finding.confidence or 0)
        and (c.finding.finding in guessed or (c.finding.confidence or 0) < limits["state"])
    ]  # fmt: skip
    normal = _normal(seen.candidates, limits["absent"])
    sections = []
    for region in [*REGIONS, "Other"]:
        here = [f for f in (*stated, *normal) if region_of(f.organ) == region]
        guesses = [f for f in doubtful if region_of(f.organ) == region]
        sentences = (*_sentences(here), *(_guess(f, limits["state"], volume=f.finding in guessed) for f in guesses))
        if sentences:
            sections.append(Section(region, sentences))
    lesions = [f for f in stated if f.finding in LESIONS]
    impression = _sentences(lesions) or [_no_lesion(seen.candidates, normal)]
    impression += _asked_about(seen.candidates, asked, {f.finding for f in lesions}, limits["absent"])
    if any(c.finding.finding == BRAIN_LESION for c in seen.candidates):
        impression.append(Sentence(LOOKED_FOR))
    gone = _not_in_view(seen, limits["absent"])
    draft = Report(
        Section("Technique", tuple(_sentences(gone))), tuple(sections), Section("Impression", tuple(impression))
    )
    sure = seen.sure.get("region")
    return _held(draft, sure) if seen.volume and sure is not None and sure < needed else draft


def _of_brain(seen: Look, scan: Scan) -> Look:
    """Of a brain's volume, the lesions that were looked for in it, and nothing that maps learned from pictures tell:
    they find a tumour in every such volume, and lobes where none are, while its structures are outlined anyway."""
    if not brain.is_brain_volume(scan, seen.region):
        return seen
    return replace(seen, candidates=tuple(Candidate(f, BRAIN_LESION, 0.0, 0.0) for f in find_lesions(scan)))


def _beginning(draft: Report, region: str, first: Sequence[Sentence]) -> Report:
    """The report with `first` at the beginning of what it says of a region."""
    if not first:
        return draft
    said = {section.title: section.sentences for section in draft.findings}
    said[region] = (*first, *said.get(region, ()))
    return replace(draft, findings=tuple(Section(title, said[title]) for title in [*REGIONS, "Other"] if title in said))


def _held(draft: Report, sure: float) -> Report:
    """The report with none of its findings stated: maps have an organ of every part for a scan of another."""

    def held(section: Section) -> Section:
        said = (
            replace(s, abstained=True, reason=f"the part of the body is not certain ({sure:.0%})")
            if s.findings and not s.abstained else s
            for s in section.sentences
        )  # fmt: skip
        return replace(section, sentences=tuple(said))

    sections = (draft.technique, *draft.findings, draft.impression)
    technique, *findings, impression = map(held, sections)
    return replace(draft, technique=technique, findings=tuple(findings), impression=impression)


def _guessed(seen: Look) -> set[str]:
    """Findings that are learned from single pictures alone, and so are guesses in a volume."""
    return set(LESIONS) - {BRAIN_LESION} if seen.volume else set()


def _stated(seen: Look, least: float, needed: float) -> list[Finding]:
    """Findings of which the limit of single pictures says that they are there; a volume's organs need more."""
    organs = max(least, needed) if seen.volume else least
    return [
        c.finding for c in seen.candidates
        if (c.finding.confidence or 0) >= (organs if c.finding.finding == "in view" else least)
        and c.finding.finding not in _guessed(seen)
    ]  # fmt: skip


def _sentences(findings: Sequence[Finding]) -> list[Sentence]:
    """One sentence a group of findings; it is as sure as its least sure finding."""
    made = []
    for text, members in write(findings):
        evidence = tuple(item for found in members for item in found.evidence)
        known = [found.confidence for found in members if found.confidence is not None]
        made.append(Sentence(text, members, evidence, min(known, default=None)))
    return made


def _guess(found: Finding, needed: float, *, volume: bool) -> Sentence:
    ((text, _),) = write([found])
    reason = f"confidence {found.confidence:.0%} is below the {needed:.0%} this model needs"
    if volume:
        reason = SINGLE_PICTURES
    return Sentence(text, (found,), found.evidence, found.confidence, abstained=True, reason=reason)


def _normal(candidates: Sequence[Candidate], below: float) -> list[Finding]:
    """Organs whose lesions were looked for and are all improbable; of a film nothing is called normal by organ."""
    worst: dict[str, float] = {}
    shown = {
        c.finding.organ for c in candidates if c.finding.finding == "in view" and (c.finding.confidence or 0) > 0.5
    }
    for candidate in candidates:
        found = candidate.finding
        if found.finding == BRAIN_LESION:  # one kind of thing was looked for, which does not make the brain normal
            continue
        if found.finding in LESIONS and found.organ and not candidate.group.startswith("X-Ray"):
            worst[found.organ] = max(worst.get(found.organ, 0.0), found.confidence or 0.0)
    return [
        Finding("abnormality", organ, None, False, confidence=1 - p)
        for organ, p in worst.items()
        if p < below and (organ in shown or organ == "brain")
    ]


def _no_lesion(candidates: Sequence[Candidate], normal: Sequence[Finding]) -> Sentence:
    """The impression when no lesion is stated: clear, unclear, or not looked for."""
    searched = [c.finding for c in candidates if c.finding.finding in LESIONS]
    if not searched:
        return Sentence("No disease has been learned for this kind of image; none was looked for.")
    likeliest = max(searched, key=lambda f: f.confidence or 0.0)
    sure = 1 - (likeliest.confidence or 0.0)
    clear = Finding("abnormality", None, None, False, confidence=sure)
    if likeliest.finding == BRAIN_LESION:
        clear = replace(clear, finding=BRAIN_LESION, organ=likeliest.organ)
    ((text, _),) = write([clear])
    if normal or sure > 1 - _LIMITS["absent"]:
        return Sentence(text, (clear,), (), sure)
    reason = f"{likeliest.finding} is not improbable ({likeliest.confidence:.0%})"
    return Sentence(text, (clear,), (), sure, abstained=True, reason=reason)


def _asked_about(candidates: Sequence[Candidate], asked: str, stated: set[str], below: float) -> list[Sentence]:
    """A word on each disease that the reader asked about and the report does not state."""
    said = []
    for name in dict.fromkeys(f.finding for f in read(f"there is {asked}") if f.finding in LESIONS):
        found = [c.finding for c in candidates if c.finding.finding == name]
        if name in stated:
            continue
        if not found:
            said.append(Sentence(f"Asked about {name}: it has not been learned for this kind of image."))
            continue
        p = max(f.confidence or 0.0 for f in found)
        absent = Finding(name, found[0].organ, None, False, confidence=1 - p)
        ((text, _),) = write([absent])
        reason = None if p < below else f"it is not improbable ({p:.0%})"
        said.append(Sentence(text, (absent,), (), 1 - p, abstained=p >= below, reason=reason))
    return said


def _not_in_view(seen: Look, below: float) -> list[Finding]:
    if seen.region not in ("Chest", "Abdomen", "Pelvis") or seen.modality == "X-Ray":
        return []
    gone = []
    for organ in _NOT_IN_VIEW:
        if seen.volume and region_of(organ) == seen.region:  # a map that fails is likelier than a chest without a heart
            continue
        own = [c.finding.confidence or 0.0 for c in seen.candidates if c.finding.organ == organ and c.group == "organ"]
        if own and max(own) < below:
            gone.append(Finding("in view", organ, None, False, confidence=1 - max(own)))
    return gone


def _technique(seen: Look, scan: Scan, needed: float, more: Section) -> Section:
    known = [seen.modality or "Image", f"of the {seen.region.lower()}" if seen.region else ""]
    text = " ".join(filter(None, known)) + (f", {seen.plane} plane" if seen.plane and seen.modality != "X-Ray" else "")
    _, depth, rows, columns = scan.slices(seen.plane if scan.frame == "patient" else None)[0].shape
    text += f", {depth} slices of {columns} x {rows}" if depth > 1 else f", {columns} x {rows} pixels"
    if scan.spacing_known:
        text += ", voxels of " + " x ".join(f"{mm:.2g}" for mm in scan.spacing) + " mm"
    told = [value for value in seen.sure.values() if value is not None]
    sure = min(told, default=None)
    low = sure is not None and sure < needed
    reason = f"the file does not say what it shows; confidence {sure:.0%}" if low else None
    first = Sentence(f"{text[0].upper()}{text[1:]}.", confidence=sure, abstained=low, reason=reason)
    return replace(more, sentences=(first, *more.sentences))


def _comparison(
    model: MedFM, draft: Report, seen: Look, scan: Scan, prior: Scan | Report | str, limits: dict[str, Any],
    plane: str | None,
) -> Section:  # fmt: skip
    """Against a scan: the same look at it, if it is of the same kind, once its place in the current one is known;
    against a report: what it states."""
    way = None
    now = [f for section in draft.findings for s in section.sentences if not s.abstained for f in s.findings]
    if isinstance(prior, Scan):
        earlier = _of_brain(look(model, prior, plane=plane), prior)
        if (earlier.modality, earlier.region) != (seen.modality, seen.region):
            text = f"The prior is {earlier.modality} of the {earlier.region.lower()}; it was not compared."
            return Section("Comparison", (Sentence(text),))
        before = _stated(earlier, limits["state"], model.config.abstain)
        if {f.finding for f in now if f.present} & {f.finding for f in before} & set(LESIONS):
            way = _registered(prior, scan)
    elif isinstance(prior, Report):
        before = [f for s in prior.sentences() if s.state != "rejected" and not s.abstained for f in s.findings]
    else:
        before = read(prior)
    return Section("Comparison", tuple(compare(now, before, way=way)))


def _registered(prior: Scan, scan: Scan) -> Alignment | None:
    """From the current scan to the prior one as a rigid body; None for pictures and where no way is found."""
    if "image" in (prior.frame, scan.frame):
        return None
    try:
        return register(prior, scan, method="rigid")
    except DataError:
        return None
