"""What run.py makes of results: tables, comparisons, and their place in a page.

A result is what a side measured (contract.py), with its name as `side`, its data set as `data`, and
its Fréchet ratios. All of a page comes from results.json and reasons.json, so it can be written
again without any training.

Why a peer is ahead is known to whoever looked into it, not to this script: reasons.json holds it,
as {peer: {measure: sentence}} with the keys of PEERS and COMPARED, for a single recipe under
"peer, recipe", and for all peers of one package under what their names begin with ("pythae").
"""

import collections
import itertools
import json
import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import common

from peers import contract

OURS = "ours: "
QUALITY_HEADER = ("side", "Fréchet ratio", "plain features", "nats", "epochs", "parameters")
COST_HEADER = (
    *("side", "images/s", "CPU s", "1,000 samples, s", "one sample, ms"),
    *("MB in training", "peak MB", "lines"),
)
UNEXPLAINED = "not looked into yet"
CROSSED = "†"  # marks a pair that was not measured under the same conditions
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
CONDITIONS = (
    "Day; billions of multiply-adds a second in NumPy's products of matrices; load average before "
    "and after training; the day on which drawing was timed again."
)
CHART = "drawings/peers.png"  # next to the page

Result = dict[str, Any]


class Measure(NamedTuple):
    """What is compared.

    Args:
        name: In tables.
        more_is_better: Or less.
        tie: The difference that counts as one, as a share of the larger value.
        absolute: Whether `tie` is the difference itself, and so is what a table shows.
    """

    name: str
    more_is_better: bool
    tie: float
    absolute: bool = False

    def gain(self, one: float, other: float) -> float:
        """Returns by how much one value is better than another, positive or negative."""
        return one - other if self.more_is_better else other - one

    def is_ahead(self, one: float, other: float) -> bool:
        """Returns whether one value is better than another by more than a tie."""
        if math.isnan(one) or math.isnan(other):
            raise ValueError(f"{self.name} must be numbers; received {one} and {other}.")
        tie = self.tie if self.absolute else self.tie * max(one, other)
        return self.gain(one, other) > tie

    def factor(self, one: float, other: float) -> str:
        """Returns how many times better one value is than another, or by how many units."""
        if self.absolute:
            return f"{self.gain(one, other):+.1f}"
        return number(one / other if self.more_is_better else other / one)


# A tie is what two trainings of one side have differed by, on machines of different speed (LOG.md).
COMPARED = {
    "frechet": Measure("Fréchet ratio", False, 0.2),
    "frechet_plain": Measure("plain features", False, 0.2),
    "nats": Measure("nats", False, 1.0, absolute=True),
    "images_per_second": Measure("images/s", True, 0.3),
    "seconds_1000": Measure("1,000 samples", False, 0.3),
    "seconds_1": Measure("one sample", False, 0.3),
    "peak_megabytes": Measure("peak MB", False, 0.1),
}
NOT_COMPARED = {("pythae_iwae", "images_per_second")}  # it decodes ten samples for each image
QUALITY = ("frechet", "nats")  # what the chart and the summary show
BY_PLAIN = ("frechet_plain", "nats")  # the same, with the judge by which nothing was chosen


# Files ---------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns what `write_rows` has written; nothing if there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else []


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a JSON list with a line for each row."""
    from tfgen.files import replacing

    with replacing(path) as temporary:
        temporary.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


# Cells ---------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Returns three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shown(key: str, result: Result) -> str:
    """Returns what samples take, one in milliseconds, and whether it is an estimate."""
    value = 1e3 * result[key] if key == "seconds_1" else result[key]
    return ("about " if result["estimated"] else "") + number(value)


def ratio(result: Result, key: str) -> str:
    """Returns a Fréchet ratio, or why there is none."""
    drawn = result["num_samples"]
    if result[key] is None:
        return "too slow to draw" if result["estimated"] else f"only {drawn} drawn"
    return f"{result[key]:.1f}" + (f" ({drawn} drawn)" if drawn < contract.NUM_SAMPLES else "")


def quality(result: Result) -> list[str]:
    """Returns a row of what a side learned, for QUALITY_HEADER."""
    epochs = number(result["images"] / result["train_images"])
    if result.get("planned_images", 0) > result["images"]:
        epochs += f" of {number(result['planned_images'] / result['train_images'])}"
    return [
        result["side"],
        ratio(result, "frechet"),
        ratio(result, "frechet_plain"),
        f"{result['nats']:.1f}" if "nats" in result else "none",
        epochs,
        f"{result['parameters']:,}",
    ]


def cost(result: Result) -> list[str]:
    """Returns a row of what a side took, for COST_HEADER."""
    return [
        result["side"],
        f"{result['images_per_second']:,.0f}",
        f"{result['cpu_seconds']:,.0f}",
        shown("seconds_1000", result),
        shown("seconds_1", result),
        f"{result['training_megabytes']:,.0f}",
        f"{result['peak_megabytes']:,.0f}",
        f"{result['lines']}",
    ]


def conditions(result: Result | None) -> str:
    """Returns when and where a side was measured."""
    if result is None:
        return "not measured"
    rate = f"{result['rate'] / 1e9:.0f}" if "rate" in result else "not noted"
    load = f"{result['load_before']} to {result['load_after']}"
    again = f"; drawing {result['drawn']}" if "drawn" in result else ""
    return f"{result['day']}; {rate}; {load}{again}"


# Pairs ---------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A peer and a recipe of ours that is held against it, trained for the same minutes."""

    peer: Result
    ours: Result

    @property
    def recipe(self) -> str:
        return self.ours["side"].removeprefix(OURS)

    @property
    def name(self) -> str:
        return f"{self.peer['side']} : {self.recipe}"

    @property
    def is_crossed(self) -> bool:
        """Whether their days differ, or the speeds of their machines, as far as these are known."""
        rates = [result.get("rate") for result in self]
        if self.peer["day"] != self.ours["day"] or None in rates:
            return True
        return max(rates) > 1.1 * min(rates)

    def values(self, key: str) -> tuple[float, float] | None:
        """Returns the peer's value and ours; None where one is missing or they are not alike."""
        if (self.peer["side"], key) in NOT_COMPARED:
            return None
        peer, ours = (result.get(key) for result in self)
        return None if peer is None or ours is None else (peer, ours)

    def leader(self, key: str) -> Result | None:
        """Returns the side that is ahead in a measure, or None where both are level."""
        values = self.values(key)
        if values is None:
            return None
        for result, one, other in zip(self, values, reversed(values), strict=True):
            if COMPARED[key].is_ahead(one, other):
                return result
        return None

    def reason(self, key: str, reasons: dict[str, dict[str, str]]) -> str:
        """Returns why the peer is ahead in a measure, as far as that is known."""
        peer = self.peer["side"]
        package, *_ = peer.split("_")
        every = [reasons.get(name, {}) for name in (f"{peer}, {self.recipe}", peer, package)]
        return collections.ChainMap(*every).get(key, UNEXPLAINED)


def pairs_of(
    results: Iterable[Result], recipes: dict[str, tuple[str, ...]], minutes: float
) -> Iterator[Pair]:
    """Yields the pairs that were trained for so long, in the order of the peers."""
    found = {result["side"]: result for result in results if result["minutes"] == minutes}
    for peer, names in recipes.items():
        for recipe in (f"{OURS}{name}" for name in names):
            if peer in found and recipe in found:
                yield Pair(found[peer], found[recipe])


def every_pair(results: list[Result], recipes: dict[str, tuple[str, ...]]) -> list[Pair]:
    """Returns the pairs of all minutes, the shortest first."""
    times = sorted({result["minutes"] for result in results})
    return [pair for minutes in times for pair in pairs_of(results, recipes, minutes)]


def unexplained(pairs: Iterable[Pair], reasons: dict[str, dict[str, str]]) -> list[str]:
    """Returns what a peer is ahead in without a reason in reasons.json."""
    return [
        f"{pair.peer['side']} in {measure.name} after {pair.peer['minutes']:g} minutes"
        for pair in pairs
        for key, measure in COMPARED.items()
        if pair.leader(key) is pair.peer and pair.reason(key, reasons) == UNEXPLAINED
    ]


# A page --------------------------------------------------------------------------------------


def section(
    results: list[Result],
    recipes: dict[str, tuple[str, ...]],
    reasons: dict[str, dict[str, str]],
) -> list[str]:
    """Returns the paragraphs and tables of a page.

    Args:
        results: All of them.
        recipes: Peer -> the recipes that it is held against.
        reasons: What reasons.json holds.
    """
    times, pairs_after = by_times(results, recipes)
    alt = "Quality against minutes of training, ours and the peers"
    parts = [verdict(pairs_after), summary(pairs_after), f"![{alt}]({CHART})"]
    why: dict[str, int] = {}  # reason -> its number
    for name, minutes in times.items():
        rows = [result for result in results if result["minutes"] == minutes]
        parts += [f"### After {name}", *tables(rows, pairs_after[name].values(), reasons, why)]
    if why:
        listed = [f"{place}. {reason}" for reason, place in why.items()]
        parts += ["### Why a peer is ahead", "\n".join(listed)]
    parts += ["### When and where", CONDITIONS, machines(results, times)]
    return [*parts, f"Versions: {versions(results)}."]


def by_times(
    results: list[Result], recipes: dict[str, tuple[str, ...]]
) -> tuple[dict[str, float], dict[str, dict[str, Pair]]]:
    """Returns the minutes by their names, and the pairs by their names for each of these."""
    times = {
        f"{minutes:g} minute{'' if minutes == 1 else 's'}": minutes
        for minutes in sorted({result["minutes"] for result in results})
    }
    pairs_after = {
        name: {pair.name: pair for pair in pairs_of(results, recipes, minutes)}
        for name, minutes in times.items()
    }
    return times, pairs_after


def short_section(results: list[Result], recipes: dict[str, tuple[str, ...]]) -> list[str]:
    """Returns what a page shows of another machine: who is ahead, and how many times.

    Args:
        results: All of that machine.
        recipes: Peer -> the recipes that it is held against.
    """
    times, pairs_after = by_times(results, recipes)
    parts = [verdict(pairs_after), summary(pairs_after)]
    for name, pairs in pairs_after.items():
        parts += [
            f"How many times better ours is after {name}, and by how many nats; bold where ours "
            "leads, in italics where the peer does:"
        ]
        parts += [factors(pairs.values(), None, {})]
    return [*parts, CONDITIONS, machines(results, times)]


def tables(
    rows: list[Result],
    pairs: Collection[Pair],
    reasons: dict[str, dict[str, str]],
    why: dict[str, int],
) -> list[str]:
    """Returns what sides learned and took in one time, and how many times better ours is."""
    parts = [
        common.markdown(QUALITY_HEADER, map(quality, rows)),
        common.markdown(COST_HEADER, map(cost, rows)),
    ]
    if pairs:
        parts += ["How many times better ours is, and by how many nats:"]
        parts += [factors(pairs, reasons, why)]
    return parts


def machines(results: list[Result], times: dict[str, float]) -> str:
    """Returns a table of when and where each side was measured."""
    sides = dict.fromkeys(result["side"] for result in results)
    found = {(result["side"], result["minutes"]): result for result in results}
    rows = [
        [side, *(conditions(found.get((side, minutes))) for minutes in times.values())]
        for side in sides
    ]
    return common.markdown(("side", *times), rows)


def verdict(pairs_after: dict[str, dict[str, Pair]]) -> str:
    """Returns who is ahead in how many comparisons of quality, a sentence for each time."""
    sentences = []
    for name, pairs in pairs_after.items():
        ours, level, behind = counts(pairs.values(), QUALITY)
        plain = counts(pairs.values(), BY_PLAIN)
        sentences.append(
            f"After {name} ours is ahead in {ours} of {ours + level + behind} comparisons of "
            f"quality, level in {level} and behind in {behind} (by plain features {plain[0]}, "
            f"{plain[1]} and {plain[2]})."
        )
    return " ".join(sentences)


def counts(pairs: Iterable[Pair], keys: Iterable[str]) -> tuple[int, int, int]:
    """Returns in how many measures of pairs ours is ahead, level and behind."""
    leaders = [
        (pair, pair.leader(key))
        for pair, key in itertools.product(pairs, keys)
        if pair.values(key) is not None
    ]
    ours = sum(leader is pair.ours for pair, leader in leaders)
    level = sum(leader is None for _, leader in leaders)
    return ours, level, len(leaders) - ours - level


def summary(pairs_after: dict[str, dict[str, Pair]]) -> str:
    """Returns a table of the quality of each pair after each time, the better one in bold.

    Args:
        pairs_after: Name of a time -> name of a pair -> the pair.
    """

    def both(pair: Pair | None, key: str) -> str:
        if pair is None or pair.values(key) is None:
            return "not measured"
        leader = pair.leader(key)
        texts = [ratio(one, key) if key == "frechet" else f"{one[key]:.1f}" for one in pair]
        marked = [
            f"**{text}**" if one is leader else text for one, text in zip(pair, texts, strict=True)
        ]
        return " : ".join(marked) + (f" {CROSSED}" if pair.is_crossed else "")

    names = dict.fromkeys(name for pairs in pairs_after.values() for name in pairs)
    rows = [
        [name, COMPARED[key].name, *(both(pairs.get(name), key) for pairs in pairs_after.values())]
        for name in names
        for key in QUALITY
    ]
    rows = [row for row in rows if set(row[2:]) != {"not measured"}]
    return common.markdown(("peer : ours", "less is better", *pairs_after), rows)


def factors(
    pairs: Iterable[Pair], reasons: dict[str, dict[str, str]] | None, why: dict[str, int]
) -> str:
    """Returns a table of how many times better ours is in each measure.

    Args:
        pairs: Of one time.
        reasons: What reasons.json holds; None refers to none and marks a peer's lead by italics.
        why: Reason -> its number; those that are new are added.
    """

    def cell(pair: Pair, key: str) -> str:
        values = pair.values(key)
        if values is None:
            return ""
        estimated = key.startswith("seconds_") and any(result["estimated"] for result in pair)
        text = ("about " if estimated else "") + COMPARED[key].factor(*reversed(values))
        leader = pair.leader(key)
        if leader is pair.ours:
            return f"**{text}**"
        if leader is None:
            return text
        if reasons is None:
            return f"*{text}*"
        place = why.setdefault(pair.reason(key, reasons), len(why) + 1)
        return text + f"{place}".translate(SUPERSCRIPTS)

    rows = [
        [
            f"{pair.name} {CROSSED}" if pair.is_crossed else pair.name,
            *(cell(pair, key) for key in COMPARED),
            number(pair.ours["parameters"] / pair.peer["parameters"]),
        ]
        for pair in pairs
    ]
    header = [measure.name for measure in COMPARED.values()]
    return common.markdown(("peer : ours", *header, "our parameters / its"), rows)


def versions(results: Iterable[Result]) -> str:
    """Returns the versions of all sides' packages, each once."""
    every = {
        f"{package} {number}"
        for result in results
        for package, number in result["versions"].items()
    }
    return ", ".join(sorted(every, key=str.lower))
