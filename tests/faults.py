"""The fault suite: runs every row's tests and prints the score card (`make faults`).

tests/faults/rows.json has the catalogue: each row's fault, the tests that inject it, or why none does. A
test `row_NN_...` or `row_NN_and_MM_...` in tests/*.rs belongs to its rows without being listed. Tests run
one by one; a row passes when all of its tests do, skipped ones do not count as passed.

  python tests/faults.py [--rows 1-16,24] [--out out/faults]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def own_tests():
    """Names `file::test` by the row in their name."""
    found = {}
    for file in sorted(os.listdir(os.path.join(ROOT, "tests"))):
        if not file.endswith(".rs"):
            continue
        with open(os.path.join(ROOT, "tests", file), encoding="utf8") as source:
            for name, rows in re.findall(r"fn (row_(\d\d(?:_(?:and_)?\d\d)*)_\w+)\(", source.read()):
                for row in re.findall(r"\d\d", rows):
                    found.setdefault(int(row), []).append(f"{file[:-3]}::{name}")
    return found


def catalogue():
    with open(os.path.join(ROOT, "tests/faults/rows.json"), encoding="utf8") as file:
        rows = json.load(file)
    own = own_tests()
    for row in rows:
        row["tests"] += [test for test in own.get(row["row"], []) if test not in row["tests"]]
    return rows


def binaries(cargo):
    """The test programs by name, built; `lib` is that of the unit tests."""
    command = ["cargo", "test", *cargo, "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    found = {}
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            kind = message["target"]["kind"][0]
            if kind in ("lib", "test"):
                found["lib" if kind == "lib" else message["target"]["name"]] = message["executable"]
    return found


def run(program, test, limit):
    """pass, fail or skip, the seconds it took, and what it said."""
    start = time.monotonic()
    command = [program, "--exact", test, "--include-ignored", "--nocapture"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
        said = done.stdout + done.stderr
        if done.returncode or "1 passed" not in done.stdout:
            result = "fail"
        else:
            result = "skip" if re.search(r"^SKIP", said, re.M) else "pass"
    except subprocess.TimeoutExpired as error:
        result, said = "fail", f"no end after {limit} s\n{error.stdout or ''}"
    return result, time.monotonic() - start, said


def measure(row, programs, known, limit):
    for test in row["tests"]:
        if test not in known:
            file, name = test.split("::", 1)
            print(f"    {test}", file=sys.stderr, flush=True)
            known[test] = run(programs[file], name, limit) if file in programs else ("skip", 0.0, "not built")
            if known[test][0] != "pass":
                print(known[test][2][-4000:], file=sys.stderr)
    results = [known[test] for test in row["tests"]]
    row["seconds"] = round(sum(seconds for _, seconds, _ in results), 1)
    verdicts = {verdict for verdict, _, _ in results}
    worst = [verdict for verdict in ("fail", "skip", "pass") if verdict in verdicts]
    row["result"] = worst[0] if worst else "manual"


def numbers(text):
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1-96", help="such as 1-16,24")
    parser.add_argument("--out", default="out/faults")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one test")
    parser.add_argument("--dev", action="store_true", help="the dev profile instead of release")
    args = parser.parse_args()
    cargo = ["--locked", *([] if args.dev else ["--release"])]
    wanted = set(numbers(args.rows))
    rows = [row for row in catalogue() if row["row"] in wanted]
    # Builds with planted faults refuse to run without one, so they are apart; tests/faults_inject.rs alone
    # needs them. Rows with such tests go last, since the second build replaces the node.
    planted = lambda row: any(test.startswith("faults_inject::") for test in row["tests"])
    programs, known, second = binaries(cargo), {}, False
    for row in sorted(rows, key=planted):
        if planted(row) and not second:
            plain = [test for row in rows if planted(row) for test in row["tests"] if "faults_inject" not in test]
            for test in plain:
                file, name = test.split("::", 1)
                known.setdefault(test, run(programs[file], name, args.limit))
            programs, second = binaries([*cargo, "--features", "fault-injection"]), True
        print(f"row {row['row']}: {row['fault']}", file=sys.stderr, flush=True)
        measure(row, programs, known, args.limit)
    counts = {kind: sum(row["result"] == kind for row in rows) for kind in ("pass", "fail", "skip", "manual")}
    seconds = round(sum(seconds for _, seconds, _ in known.values()), 1)
    card = {"rows_total": len(rows), "rows_auto": len(rows) - counts["manual"], "rows_pass": counts["pass"],
            "rows_fail": counts["fail"], "rows_skipped": counts["skip"], "seconds": seconds, "rows": rows}
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, "card.json"), "w", encoding="utf8") as file:
        json.dump(card, file, indent=1)
    table = ["| row | fault | result | s | tests, or why there is none |", "|--:|---|---|--:|---|"]
    for row in rows:
        how = ", ".join(test.rsplit("::", 1)[1] for test in row["tests"]) or row.get("why_not", "")
        table.append(f"| {row['row']} | {row['fault']} | {row['result']} | {row['seconds']} | {how} |")
    table.append(f"\n{card['rows_auto']} of {len(rows)} rows automatic; {counts['pass']} pass, "
                 f"{counts['fail']} fail, {counts['skip']} skipped; {seconds} s of tests")
    text = "\n".join(table)
    with open(os.path.join(args.out, "card.md"), "w", encoding="utf8") as file:
        file.write(text + "\n")
    print(text)
    sys.exit(1 if counts["fail"] else 0)


if __name__ == "__main__":
    main()
