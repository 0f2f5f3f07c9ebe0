"""The entries of a checkpoint <-> the values of a TrainState. No I/O.

docs/checkpoint-format.md says what each entry holds. What is read here has the right types;
whether the values fit each other is for `validation.py`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from relume.checkpoint.archive import Malformed
from relume.checkpoint.disk import Buffer
from relume.checkpoint.evaluations import RECORD as EVALUATION
from relume.checkpoint.evaluations import packed, unpacked
from relume.checkpoint.json_values import (
    MOST_BYTES,
    count_of,
    digest_of_json,
    fields_of,
    list_of,
    parsed,
    text_of,
    texts_of,
)
from relume.checkpoint.state import (
    RECORD,
    Arrays,
    History,
    Mark,
    Progress,
    RecipeRecord,
    TrainState,
)
from relume.checkpoint.tensors import bytes_of, tensor_parts

FORMAT = 1
COMMENT = b"relume/1 xxh3-128 "
DIGEST_BYTES = 32
DARKNET = ""
"""No entry has this name."""
MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 1 << 20
MANIFEST_KEYS = {
    *("format", "iteration", "course", "recipe", "state", "environment", "darknet", "entries"),
}
ENTRIES = (
    *("progress.json", "history/iterations.bin", "history/marks.json", "recipe/cfg"),
    *("recipe/keys.json", "recipe/names.json", "recipe/labels.bin"),
)
"""Those that every checkpoint has."""
NOTHING = memoryview(b"")

Parts = Sequence[Buffer]


def manifest_of(state: TrainState, digest: bytes) -> dict[str, Any]:
    """Return the manifest of a state, but for what it says of other parts of the file."""
    manifest = {
        "format": FORMAT,
        "iteration": state.iteration,
        "course": state.course,
        "recipe": state.recipe.digest(),
        "state": digest.hex(),
        "environment": dict(state.environment),
    }
    if state.subdivision:
        manifest["subdivision"] = state.subdivision
    if state.history.evaluations:
        manifest["evaluations"] = len(state.history.evaluations)
    return manifest


def manifest_in(data: bytes | memoryview) -> dict[str, Any]:
    """Return the manifest in an entry.

    Raises:
        Malformed: a field is missing, unknown or of another type, or the format is a later one.
    """
    manifest = parsed(data, MOST_MANIFEST_BYTES)
    if isinstance(manifest, dict) and count_of(manifest.get("format")) > FORMAT:
        found = f"format {manifest['format']}, where this one reads {FORMAT}"
        raise Malformed(found, is_newer=True)
    manifest = fields_of(manifest, MANIFEST_KEYS, {"subdivision", "evaluations"})
    for key in ("iteration", "subdivision", "evaluations"):
        count_of(manifest.get(key, 0))
    for key in ("course", "recipe", "state"):
        digest_of_json(manifest[key])
    texts_of(manifest["environment"])
    if not isinstance(manifest["entries"], dict):
        raise Malformed("no object of entries")
    for seal in (manifest["darknet"], *manifest["entries"].values()):
        fields = fields_of(seal, {"bytes", "xxh3-128"})
        count_of(fields["bytes"])
        digest_of_json(fields["xxh3-128"])
    return manifest


def entries_of(state: TrainState) -> dict[str, Parts]:
    """Return the entries of a state behind the manifest, in the order of the file."""
    recipe, history = state.recipe, state.history
    marks = {"start": history.start, "marks": [asdict(mark) for mark in history.marks]}
    entries: dict[str, Parts] = {
        "progress.json": [as_json(_progress_fields(state.progress))],
        "history/iterations.bin": [bytes_of(history.records)],
        "history/marks.json": [as_json(marks)],
        "recipe/cfg": [recipe.cfg_text.encode("utf-8", "surrogateescape")],
        "recipe/keys.json": [as_json(dict(recipe.keys))],
        "recipe/names.json": [as_json(list(recipe.names))],
        "recipe/labels.bin": [bytes_of(recipe.label_digests)],
    }
    if history.evaluations:  # a run without has no such entries
        entries["history/evaluations.bin"] = [packed(history.evaluations)]
        entries["history/valid.bin"] = [bytes_of(history.valid_digests)]
    for group in sorted(state.groups):
        entries[entry_of_group(group)] = tensor_parts(state.groups[group])
    return entries


def _progress_fields(progress: Progress) -> dict[str, Any]:
    """Return the counters; the skipped pictures only where there are any."""
    values = asdict(progress)
    return values if progress.skipped else {k: v for k, v in values.items() if k != "skipped"}


def state_of(
    manifest: Mapping[str, Any],
    entries: Mapping[str, memoryview],
    weights: Arrays,
    groups: Mapping[str, Arrays],
    recipe: RecipeRecord,
) -> TrainState:
    """Return the state that a manifest and entries hold.

    Raises:
        Malformed: an entry does not hold what it must.
    """
    return TrainState(
        weights=weights,
        groups=groups,
        progress=_progress_in(entries["progress.json"]),
        history=_history_in(entries),
        recipe=recipe,
        course=manifest["course"],
        environment=manifest["environment"],
    )


def recipe_in(entries: Mapping[str, memoryview]) -> RecipeRecord:
    """Return the record of the recipe.

    Raises:
        Malformed: an entry does not hold what it must.
    """
    if len(entries["recipe/cfg"]) > MOST_BYTES:
        raise Malformed("recipe/cfg is too long")
    keys = texts_of(parsed(entries["recipe/keys.json"]))
    try:
        "".join((*keys, *keys.values())).encode()
        cfg_text = str(entries["recipe/cfg"], "utf-8", "surrogateescape")
    except UnicodeError as error:
        raise Malformed(f"recipe/keys.json holds what is no text ({error})") from error
    names = list_of(parsed(entries["recipe/names.json"]))
    return RecipeRecord(
        cfg_text=cfg_text,
        keys=keys,
        names=tuple(text_of(name) for name in names),
        # Copied: they outlive the tensors, and a view would keep the whole file in memory.
        label_digests=np.frombuffer(_rows(entries["recipe/labels.bin"], 8), "<u8"),
    )


def _progress_in(data: memoryview) -> Progress:
    fields = fields_of(parsed(data), {"seen", "average_loss"}, {"skipped"})
    average = fields["average_loss"]
    if average is not None and not isinstance(average, float):
        raise Malformed("the average loss is no number")
    skipped = tuple(count_of(row) for row in list_of(fields.get("skipped", [])))
    return Progress(count_of(fields["seen"]), average, skipped)


def _history_in(entries: Mapping[str, memoryview]) -> History:
    fields = fields_of(parsed(entries["history/marks.json"]), {"start", "marks"})
    marks = []
    for value in list_of(fields["marks"]):
        mark = fields_of(value, {"iteration", "kind", "text"})
        kind, text = text_of(mark["kind"]), text_of(mark["text"])
        marks.append(Mark(count_of(mark["iteration"]), kind, text))
    records = np.frombuffer(_rows(entries["history/iterations.bin"], RECORD.itemsize), RECORD)
    evaluations = entries.get("history/evaluations.bin", NOTHING)
    if len(evaluations) > EVALUATION.itemsize * (len(records) + 1):
        raise Malformed("more evaluations than iterations")
    return History(
        start=count_of(fields["start"]),
        records=records,
        marks=tuple(marks),
        evaluations=unpacked(memoryview(_rows(evaluations, EVALUATION.itemsize))),
        valid_digests=np.frombuffer(_rows(entries.get("history/valid.bin", NOTHING), 8), "<u8"),
    )


def _rows(data: memoryview, row_bytes: int) -> bytes:
    if len(data) % row_bytes:
        raise Malformed(f"{len(data):,} bytes are no rows of {row_bytes}")
    return bytes(data)


def entry_of_group(group: str) -> str:
    """Return the name of the entry that holds a group of arrays."""
    return f"state/{group}.safetensors"


def group_of_entry(name: str) -> str:
    """Return the group of arrays that an entry holds.

    Raises:
        Malformed: no entry of a checkpoint is called like that.
    """
    group = name.removeprefix("state/").removesuffix(".safetensors")
    if name != entry_of_group(group):
        raise Malformed(f"unknown entry {name!a}")
    return group


def as_json(value: Mapping[str, Any] | list[str]) -> bytes:
    """Return canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
