"""Hundreds of mutations of params.yaml: each is valid or gives one clear error that fits on a screen."""

import copy
import json
import random
from pathlib import Path

import pytest
import yaml

from fewshot.errors import FewshotError, ParamsError
from fewshot.experiments.reader import read_files
from fewshot.workflow.plan import load_plan

SHIPPED = Path(__file__).parents[2] / "params.yaml"
N_STRUCTURAL = 320
MAX_LINES, MAX_WIDTH = 40, 400

WRONG_VALUES = (
    None, True, -1, 0, 10**30, -0.5, 1e300, "", "no", "1_000", "0x1F", "12:30:00", "2026-01-01", "~", "null ",
   "quick\n", "é日本", "a" * 5000, "../../etc", [], [[]], [1, "a"], {}, {"a": {"b": 1}},
)  # fmt: skip


def places(values, place=()):
    """Yield the path of every key, and of the keys of list items."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        if isinstance(key, str):
            yield (*place, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*place, key))


def misspell(word, chance):
    """Return the word with a letter dropped, doubled or replaced, or with its case changed."""
    at = chance.randrange(len(word))
    wrong = (word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word[:at] + "x" + word[at + 1 :])
    return chance.choice([*wrong, word.upper(), f"{word} ", f"{word}é", f"-{word}"])


def mutate(values, chance):
    """Change one key or value and return the text of the file."""
    values = copy.deepcopy(values)
    *way, key = chance.choice(sorted(places(values), key=str))
    section = values
    for step in way:
        section = section[step]
    kind = chance.choice(["value", "value", "value", "key", "delete"])
    if kind == "value":
        section[key] = chance.choice(WRONG_VALUES)
    elif kind == "key":
        section[misspell(key, chance)] = section.pop(key)
    else:
        del section[key]
    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False)


def structural_mutations():
    chance = random.Random(20261122)
    shipped = read_files(SHIPPED).values
    suites = {name: shipped["suites"][name] for name in ("quickstart", "metaoptnet_ablation")}
    unused = ("cpu", "metaoptnet_tiered", "metaoptnet_cifar", "metaoptnet_fc100", "mamlpp")
    recipes = {name: recipe for name, recipe in shipped["recipes"].items() if not name.startswith(unused)}
    values = {**shipped, "suites": suites, "recipes": recipes}
    return [mutate(values, chance) for _ in range(N_STRUCTURAL)]


def with_recipe(line):
    """Return the shipped file with an extra line in the recipe that the suite uses."""
    return SHIPPED.read_text(encoding="utf-8").replace("\n  quick:\n", f"\n  quick:\n    {line}\n", 1)


SHIPPED_TEXT = SHIPPED.read_text(encoding="utf-8")
LAUGHS = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))
INVALID = {
    "empty": "",
    "only a comment": "# nothing\n",
    "a number": "3\n",
    "a list": "- suite\n",
    "null": "~\n",
    "two documents": f"{SHIPPED_TEXT}\n---\nsuite: other\n",
    "tab": SHIPPED_TEXT.replace("\n  quick:\n", "\n\tquick:\n", 1),
    "unclosed": SHIPPED_TEXT + "\nreport: {sheets: true\n",
    "duplicate section": f"{SHIPPED_TEXT}\nsuite: quickstart\n",
    "duplicate key": with_recipe("n_shot: 5"),
    "boolean no": with_recipe("nesterov: no"),
    "boolean on": with_recipe("joint_forward: on"),
    "octal of old YAML": with_recipe("label_smoothing: 0o17"),
    "underscore": with_recipe("image_size: 1_000"),
    "sexagesimal": with_recipe("image_size: 1:30"),
    "hexadecimal": with_recipe("image_size: 0x20"),
    "not a number": with_recipe("momentum: .nan"),
    "infinite": with_recipe("momentum: -.inf"),
    "exponent out of range": with_recipe("momentum: 1e999"),
    "5,000 digits": with_recipe("image_size: " + "9" * 5000),
    "date": with_recipe("momentum: 2026-01-01"),
    "explicit integer": with_recipe("image_size: !!int ten"),
    "explicit empty integer": with_recipe("image_size: !!int ''"),
    "explicit float": with_recipe("momentum: !!float high"),
    "explicit boolean": with_recipe("nesterov: !!bool maybe"),
    "binary": with_recipe("precision: !!binary aGVsbG8="),
    "set": with_recipe("validation: !!set {episodes, n_shot}"),
    "timestamp": with_recipe("precision: !!timestamp 2020-13-45"),
    "python object": with_recipe('precision: !!python/object/apply:os.system ["touch started"]'),
    "unknown tag": with_recipe("precision: !high 3"),
    "equals sign": with_recipe("precision: ="),
    "number as key": with_recipe("3: 4"),
    "date as key": with_recipe("2026-01-01: 4"),
    "null as key": with_recipe("~: 4"),
    "list as key": with_recipe("? [a, b]\n    : 4"),
    "long key": with_recipe("k" * 3000 + ": 4"),
    "newline in a key": with_recipe('"a\\nb": 4'),
    "surrogate": with_recipe('precision: "\\ud800"'),
    "surrogate in a key": with_recipe('"\\ud800": 4'),
    "unknown alias": with_recipe("precision: *nowhere"),
    "anchor in itself": with_recipe("schedule: &a [*a]"),
    "merge of a number": with_recipe("<<: 3"),
    "exploding anchors": f"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{LAUGHS}\n",
    "deep nesting": "suite: " + "[" * 3000 + "]" * 3000,
    "deep sections": "\n".join(" " * i + "a:" for i in range(900)),
    "long text": SHIPPED_TEXT + "\n" + "#" * 2**20,
    "many experiments": SHIPPED_TEXT.replace("recipe: quick}", f"recipe: quick, seed: {list(range(11000))}}}", 1),
    "long name": SHIPPED_TEXT.replace("recipe: quick}", f"recipe: quick, learner.{'x' * 40}: {'y' * 300}}}", 1),
    "no setting": SHIPPED_TEXT.replace("recipe: quick}", "recipe: quick, learner.: 3}", 1),
    "setting of a number": SHIPPED_TEXT.replace("recipe: quick}", "recipe: quick, n_shot.x: 3}", 1),
    "same experiment twice": SHIPPED_TEXT.replace("recipe: quick}", "recipe: quick, seed: [1, 1]}", 1),
    "cycle of two": with_recipe("base: untrained"),
    "cycle of one": with_recipe("base: quick"),
    "base of a base of a base": SHIPPED_TEXT.replace(
        "\nrecipes:", "\nrecipes:\n  a: {base: b}\n  b: {base: c}\n  c: {base: d}\n  d: {}\n#", 1
    ),
    "base is a list": with_recipe("base: [untrained]"),
    "more ways than classes": SHIPPED_TEXT.replace("recipe: quick}", "recipe: quick, n_way: 72}", 1),
    "more shots than images": SHIPPED_TEXT.replace("recipe: quick}", "recipe: quick, n_shot: 51}", 1),
    "unused recipe": SHIPPED_TEXT.replace("\nrecipes:", "\nrecipes:\n  other: {n_shto: 3}\n#", 1),
    "suite of nothing": SHIPPED_TEXT.replace("\nsuites:", "\nsuites:\n  quickstarts: []\n#", 1),
    "a zero byte": SHIPPED_TEXT + "\0",
    "a bell": with_recipe("precision: \a"),
}  # fmt: skip

VALID = {
    "as shipped": SHIPPED_TEXT,
    "byte order mark": "\ufeff" + SHIPPED_TEXT,
    "windows line ends": SHIPPED_TEXT.replace("\n", "\r\n"),
    "exponent without a point": with_recipe("momentum: 1e-3"),
    "leading zero is decimal": with_recipe("image_size: 032"),
    "anchor and alias": with_recipe("augmentation: &a {flip: true}").replace(
        "\n  untrained: {", "\n  untrained: {augmentation: *a, ", 1
    ),
    "merge key": with_recipe("<<: {momentum: 0.1}"),
    "merge list": with_recipe("<<: [{momentum: 0.1}, {image_size: 28}]"),
    "more experiments": SHIPPED_TEXT.replace("recipe: quick}", "recipe: quick, seed: [1, 2, 3]}", 1),
    "override in a section": SHIPPED_TEXT.replace("recipe: quick}", "recipe: quick, validation.n_shot: 1}", 1),
}


def outcome(path, text):
    """Return the error message, or None if the file is valid. Any other exception fails the test."""
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    try:
        load_plan(path)
    except FewshotError as error:
        return str(error)
    return None


def assert_fits_a_screen(message, path):
    lines = message.splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= MAX_WIDTH + len(str(path))
    assert "Traceback" not in message


@pytest.mark.parametrize("name", INVALID)
def test_invalid_file_gives_one_clear_error(name, tmp_path):
    path = tmp_path / "params.yaml"

    message = outcome(path, INVALID[name])

    assert message is not None
    assert message.startswith(f"{path}: ")
    assert_fits_a_screen(message, path)


@pytest.mark.parametrize("name", VALID)
def test_valid_forms_are_read(name, tmp_path):
    assert outcome(tmp_path / "params.yaml", VALID[name]) is None


def test_random_mutations_are_valid_or_give_one_clear_error(tmp_path):
    path = tmp_path / "params.yaml"

    messages = [outcome(path, text) for text in structural_mutations()]

    errors = [message for message in messages if message is not None]
    assert len(errors) > 0.6 * N_STRUCTURAL
    assert len(errors) < N_STRUCTURAL
    for message in errors:
        assert message.startswith(f"{path}: ")
        assert_fits_a_screen(message, path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("\n    n_shot: 5", "\n    n_shto: 5"), ("recipes.quick.n_shto", "Did you mean 'n_shot'?")),
        (("\n    n_shot: 5", "\n    n_shot: five"), ("recipes.quick.n_shot", "'five'", "valid integer")),
        (("\n    n_shot: 5", "\n    n_shot: 0"), ("recipes.quick.n_shot", "0 is not allowed", "or equal to 1")),
        (("learning_rate: 1.0e-3", "learning_rate: -1.0e-3"), ("quick.learning_rate", "-0.001", "greater than 0")),
        (("learning_rate: 1.0e-3", "learning_rate:"), ("recipes.quick.learning_rate", "null")),
        (("optimizer: adam", "optimizer: adma"), ("recipes.quick.optimizer", "'adma'", "'sgd' or 'adam'")),
        (("schedule: {epochs: [2,", "schedule: {epochs: [9,"), ("recipes.quick", "schedule", "increase")),
        (("learner: [prototype, ", "learner: [prototyp, "), ("quickstart.heads", "'prototyp'", "mean 'prototype'")),
        (("recipe: quick}", "recipe: quik}"), ("suites.quickstart.heads", "'quik'", "Did you mean 'quick'?")),
        (("dataset: glyphs", "dataset: glyph"), ("suites.quickstart.heads", "'glyph'", "Did you mean 'glyphs'?")),
        (("recipe: quick}", "recipe: quick, sede: 3}"), ("suites.quickstart.heads", "'sede'", "Did you mean 'seed'?")),
        (("recipe: quick}", "recipe: quick, learner.rigde: 3}"), ("suites.quickstart.heads.learner", "'rigde'")),
        (("recipe: quick}", "recipe: quick, n_way: 99}"), ("suites.quickstart.heads", "n_way 99", "71 train classes")),
        (("recipe: quick}", "recipe: quick, n_shot: 99}"), ("suites.quickstart.heads", "n_shot 99", "has 60")),
        (("suite: quickstart", "suite: quikstart"), ("suite:", "'quikstart'", "Did you mean 'quickstart'?")),
        (("untrained: {base: quick", "untrained: {base: quik"), ("recipes.untrained.base", "'quik'", "mean 'quick'")),
    ],
)  # fmt: skip
def test_message_names_key_value_and_fix(change, named, tmp_path):
    message = outcome(tmp_path / "params.yaml", SHIPPED_TEXT.replace(*change, 1))

    assert message is not None
    assert [words for words in named if words not in message] == []


# One suite that is planned, and one that is not and has every kind of key.
TWO_SUITES = {
    "suite": "planned",
    "suites": {
        "planned": [{"dataset": "glyphs", "learner": "ridge", "recipe": "quick"}],
        "other": [
            {
                "dataset": ["glyphs", "cub"], "backbone": "wide", "learner": ["ridge", "prototype"], "recipe": "long",
                "seed": [0, 1], "shots": [1, 5], "targets": ["cub"], "episodes": 100, "n_shot": [1, 5],
                "validation.n_shot": 1, "augmentation.flip": True, "backbone.filters": 8, "evaluate.n_query": 3,
            },
            {
                "dataset": "mini_imagenet", "backbone": "conv4", "learner": "soft", "recipe": "quick",
                "schedule": "cosine", "learner.ridge": [1.0, 2.0], "shots": "train_shot",
            },
        ],
    },
    "recipes": {
        "quick": {"epochs": 4, "schedule": [[2, 0.3]], "validation": {"episodes": 10, "n_way": 5}, "n_query": 5},
        "long": {"base": "quick", "image_size": 32, "augmentation": {"crop_padding": 2}, "optimizer": "adam"},
    },
    "learners": {"soft": {"base": "ridge", "ridge": 3.0}},
    "backbones": {"wide": {"base": "conv4", "filters": 16}},
    "prepare": {"cub": {"path": None}},
    "train": {"threads": 1, "device": "auto"},
    "evaluate": {"shots": [1], "targets": None, "seed": 0},
    "report": {"sheets": True},
}  # fmt: skip
WRONG_TYPES = (None, True, -1, 10**30, 1e300, "no", "\x1b[31m\u202e", "x" * 5000, [], [[1]], {}, {"a": {"b": 1}})
ADVICE = (
    "allowed", "should", "missing key", "give ", "lower ", "make them", "use a recipe", "set ", "must ", "remove",
    "increase",
)  # fmt: skip


def all_places(values, place=()):
    """Yield the path of every key and list item."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*place, key)
        if isinstance(value, (dict, list)):
            yield from all_places(value, (*place, key))


def changed(place, change):
    """Return the text of the file with two suites after a change, called with the section and the key of a place."""
    values = copy.deepcopy(TWO_SUITES)
    section = values
    for step in place[:-1]:
        section = section[step]
    change(section, place[-1])
    return json.dumps(values)


def dotted(place):
    """Return a path as shown in messages, down to the entry or block that holds it."""
    if place[0] == "suites" and len(place) > 2:
        return f"suites.{place[1]}[{place[2]}]"
    return ".".join(place[:2])


def assert_names_place_and_remedy(message, place, path):
    assert_fits_a_screen(message, path)
    assert message.isprintable() or "\n" in message
    assert dotted(place) in message
    assert [line for line in message.splitlines() if not any(words in line for words in ADVICE)] == []


def test_the_file_with_two_suites_is_valid(tmp_path):
    assert outcome(tmp_path / "params.yaml", json.dumps(TWO_SUITES)) is None


def test_wrong_types_at_every_level_give_one_clear_error(tmp_path):
    path, chance, refused = tmp_path / "params.yaml", random.Random(20261127), 0

    for place in all_places(TWO_SUITES):
        for wrong in chance.sample(WRONG_TYPES, 4):
            message = outcome(path, changed(place, lambda section, key, wrong=wrong: section.__setitem__(key, wrong)))
            if message is not None:
                refused += 1
                assert_names_place_and_remedy(message, place, path)

    assert refused > 300


@pytest.mark.parametrize("place", [place for place in all_places(TWO_SUITES["suites"]) if isinstance(place[-1], str)])
def test_misspelt_key_of_any_suite_is_named(place, tmp_path):
    misspelt = f"{place[-1]}q"

    message = outcome(
        tmp_path / "params.yaml",
        changed(("suites", *place), lambda section, key: section.update({misspelt: section.pop(key)})),
    )

    if len(place) > 1:
        assert f"suites.{place[0]}[{place[1]}]" in message
        assert repr(misspelt.rpartition(".")[2]) in message or "missing key" in message
    else:
        assert (message is None) == (place[0] == "other")  # the name of a suite is free, but `suite:` gives one


@pytest.mark.parametrize("key", ["dataset", "learner", "recipe"])
@pytest.mark.parametrize("block", [0, 1])
def test_missing_key_of_any_suite_is_one_line(key, block, tmp_path):
    path = tmp_path / "params.yaml"

    message = outcome(
        path, changed(("suites", "other", block), lambda section, key_of_block: section[key_of_block].pop(key))
    )

    assert message == f"{path}: suites.other[{block}].{key}: missing key {key!r}; add it"


def test_missing_key_of_the_only_block_is_one_line(tmp_path):
    path = tmp_path / "params.yaml"

    message = outcome(path, changed(("suites", "planned", 0), lambda section, key: section[key].pop("dataset")))

    assert message == f"{path}: suites.planned[0].dataset: missing key 'dataset'; add it"


@pytest.mark.parametrize("section", ["suite", "suites", "recipes"])
def test_missing_section_is_named(section, tmp_path):
    message = outcome(tmp_path / "params.yaml", changed((section,), lambda values, key: values.pop(key)))

    assert f"{section}: missing key '{section}'; add it" in message


def test_all_mistakes_are_reported_at_once(tmp_path):
    text = with_recipe("x: 1").replace("suite: quickstart", "sweet: quickstart", 1)

    message = outcome(tmp_path / "params.yaml", f"{text}\nmore: 1\n")

    assert "missing key 'suite'" in message
    assert "'sweet'" in message
    assert "'more'" in message


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ParamsError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_plan(tmp_path / "nowhere.yaml")
    with pytest.raises(ParamsError, match="Is a directory"):
        load_plan(tmp_path)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"suite: caf\xe9\n")

    with pytest.raises(ParamsError, match="not UTF-8 text at byte 10"):
        load_plan(tmp_path / "params.yaml")
