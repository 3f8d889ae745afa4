"""Unites what llvm-cov says of one header in many programs: coverage.py HEADER LIST <exports

Each line of the input is the JSON of one program, exported from the profile of all of them. Prints
a row for each room of the header and the total, writes what is not covered to LIST, grouped by room
and function, and fails below 100 % of lines, branches or conditions (MC/DC)."""
import json
import os
import re
import sys

MCDC_BRANCH, EXPANSION = 6, 1


def rooms_of(lines):
    """The room in which each line stands; [0] is no line."""
    room, rooms = "front", ["front"]
    for line in lines:
        banner = re.match(r"/\* \[([a-z]+)\] ---", line)
        room = banner.group(1) if banner else room
        rooms.append(room)
    return rooms


def line_counts(segments):
    """Line -> how often it ran, as llvm's LineCoverageStats judges it."""
    counts, wrapped, i = {}, None, 0
    if not segments:
        return counts
    for line in range(segments[0][0], segments[-1][0] + 1):
        here = []
        while i < len(segments) and segments[i][0] == line:
            here.append(segments[i])
            i += 1
        starts = [s for s in here if not s[5] and s[3] and s[4]]
        skipped = bool(here) and not here[0][3] and here[0][4]
        mapped = not skipped and (bool(wrapped and wrapped[3]) or bool(starts))
        mapped = mapped or any(s[4] and s[3] for s in here)
        if mapped:
            counts[line] = max([wrapped[2] if wrapped else 0] + [s[2] for s in starts])
        wrapped = here[-1] if here else wrapped
    return counts


class Header:
    def __init__(self, path):
        self.path = os.path.realpath(path)
        self.text = open(path, encoding="utf-8").read().split("\n")
        self.rooms = rooms_of(self.text)
        self.lines = {}  # line -> count
        self.branches = {}  # (place, which way) -> count
        self.decisions = {}  # place -> (conditions that were seen to decide, their places)
        self.functions = {}  # first line -> (last line, name)

    def is_it(self, name):
        return os.path.realpath(name) == self.path

    def add(self, export):
        for file in export["files"]:
            if self.is_it(file["filename"]):
                for line, count in line_counts(file["segments"]).items():
                    self.lines[line] = max(count, self.lines.get(line, 0))
        for function in export["functions"]:
            if self.is_it(function["filenames"][0]):
                self.add_function(function)

    def add_function(self, function):
        regions = function["regions"]
        start = regions[0]
        self.functions[start[0]] = (start[2], function["name"].split(":")[-1])
        called = {r[6]: (tuple(r[:4]), r[5]) for r in regions if r[7] == EXPANSION}
        conditions = []
        for branch in function["branches"]:
            place, file = [tuple(branch[:4])], branch[6]
            ours = self.is_it(function["filenames"][file])
            while file in called:  # a macro counts for each place that uses it
                place.insert(0, called[file][0])
                file = called[file][1]
            if not ours:  # in somebody else's macro: llvm itself may put it at the call
                place = [place[0][:2] * 2]
            for way, count in (("true", branch[4]), ("false", branch[5])):
                key = (tuple(place), way)
                self.branches[key] = max(count, self.branches.get(key, 0))
            if branch[8] == MCDC_BRANCH:
                conditions.append((tuple(place), branch))
        for decision in function["mcdc_records"]:
            self.add_decision(decision, conditions)

    def add_decision(self, decision, conditions):
        place, seen = tuple(decision[:4]), decision[-1]
        inside = sorted(c for c, b in conditions
                        if place[:2] <= c[0][:2] and c[0][:2] <= place[2:])
        before = self.decisions.get(place)
        if before:
            seen = [a or b for a, b in zip(before[0], seen)]
        self.decisions[place] = (seen, inside)

    # ---- the report ----
    def where(self, line):
        name = "?"
        for first, (last, function) in self.functions.items():
            if first <= line <= last:
                name = function
        return name

    def source(self, place):
        first, begin, last, end = place
        whole = first < last or begin == end
        return self.text[first - 1][begin - 1:None if whole else end - 1].strip()

    def findings(self):
        """(line, what) of everything that counts: what is None if it is covered."""
        for line, count in self.lines.items():
            yield "line", line, None if count else self.text[line - 1].strip()
        for (place, way), count in self.branches.items():
            yield "branch", place[0][0], None if count else \
                "never %s: %s" % (way, " > ".join(self.source(p) for p in place))
        for place, (seen, inside) in self.decisions.items():
            for i, decides in enumerate(seen):
                text = self.source(inside[i][0]) if i < len(inside) else "?"
                yield "mcdc", place[0], None if decides else \
                    "condition %d of %d never decides: %s" % (i + 1, len(seen), text)


def figures(counts):
    return "  ".join("%5.1f %% of %5d" % (100 * got / of if of else 100, of) for got, of in counts)


def main():
    header = Header(sys.argv[1])
    for line in sys.stdin:
        if line.strip():
            for export in json.loads(line)["data"]:
                header.add(export)
    kinds, table, uncovered = ("line", "branch", "mcdc"), {}, []
    for kind, line, missing in header.findings():
        for room in (header.rooms[line], "all"):
            row = table.setdefault(room, {k: [0, 0] for k in kinds})
            row[kind][0] += missing is None
            row[kind][1] += 1
        if missing is not None:
            uncovered.append((line, kind, missing))
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        last = None
        for line, kind, missing in sorted(uncovered, key=lambda u: (u[0], kinds.index(u[1]))):
            here = (header.rooms[line], header.where(line))
            if here != last:
                out.write("[%s] %s\n" % here)
            last = here
            out.write("%7d: %s %s\n" % (line, kind, missing))
    print("%-8s %16s  %16s  %16s" % ("room", "lines", "branches", "MC/DC"))
    for room in [r for r in dict.fromkeys(header.rooms) if r in table] + ["all"]:
        print("%-8s %s" % (room, figures([table[room][k] for k in kinds])))
    total = [100 * got / of for got, of in (table["all"][k] for k in kinds)]
    print("coverage: %.1f %% of lines, %.1f %% of branches, %.1f %% of MC/DC" % tuple(total))
    return 1 if uncovered else 0


sys.exit(main())
