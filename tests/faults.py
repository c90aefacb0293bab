"""The fault suite: runs every row's tests and prints the score card (`make faults`).

tests/faults/rows.json has the catalogue: each row's fault, the tests that inject it, or why none does. A
test `row_NN_...` or `row_NN_and_MM_...` in tests/*.rs belongs to its rows without being listed. Tests run
one by one; a row passes when all of its tests do, skipped ones do not count as passed. Tests called
`control_...` are positive controls: each plants a fault that the suite has to notice.

  python tests/faults.py [--rows 1-16,24] [--out out/faults]
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def own_tests():
    """Names `file::test` by the row in their name; those of the controls under `control`."""
    found = {"control": []}
    for file in sorted(os.listdir(os.path.join(ROOT, "tests"))):
        if not file.endswith(".rs"):
            continue
        with open(os.path.join(ROOT, "tests", file), encoding="utf8") as source:
            text = source.read()
        found["control"] += [f"{file[:-3]}::{name}" for name in re.findall(r"fn (control_\w+)\(", text)]
        for name, rows in re.findall(r"fn (row_(\d\d(?:_(?:and_)?\d\d)*)_\w+)\(", text):
            for row in re.findall(r"\d\d", rows):
                found.setdefault(int(row), []).append(f"{file[:-3]}::{name}")
    return found


def catalogue():
    with open(os.path.join(ROOT, "tests/faults/rows.json"), encoding="utf8") as file:
        rows = json.load(file)
    own = own_tests()
    for row in rows:
        row["tests"] += [test for test in own.get(row["row"], []) if test not in row["tests"]]
    return rows + [{"row": "control", "fault": "faults planted to be noticed", "tests": own["control"]}]


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
    """pass, fail or skip, the seconds it took, and what it said on stderr and stdout."""
    start = time.monotonic()
    command = [program, "--exact", test, "--include-ignored", "--nocapture"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as child:
        try:
            out, said = child.communicate(timeout=limit)
            if child.returncode or "1 passed" not in out:
                result = "fail"
            else:
                result = "skip" if re.search(r"^SKIP", said, re.M) else "pass"
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # with the node and the peers that it started
            result, said, out = "fail", f"no end after {limit} s", child.communicate()[0]
    return result, time.monotonic() - start, said, out


def measure(row, programs, known, limit):
    for test in row["tests"]:
        if test not in known:
            file, name = test.split("::", 1)
            print(f"    {test}", file=sys.stderr, flush=True)
            known[test] = run(programs[file], name, limit) if file in programs else ("skip", 0.0, "not built", "")
            if known[test][0] != "pass":
                print(*known[test][2:], file=sys.stderr)
    results = [known[test] for test in row["tests"]]
    row["seconds"] = round(sum(result[1] for result in results), 1)
    row["measured"] = [line for result in results for line in result[2].splitlines() if line.strip()]
    verdicts = {result[0] for result in results}
    worst = [verdict for verdict in ("fail", "skip", "pass") if verdict in verdicts]
    row["result"] = worst[0] if worst else "manual"


def machine():
    """What it ran on and what else ran there."""
    with open("/proc/cpuinfo", encoding="utf8") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "command": " ".join(sys.argv),
            "processor": model[1] if model else os.uname().machine, "cores": os.cpu_count(), "load": load}


def write(rows, out):
    """The card of the rows measured so far, as JSON and as a table; returns the table and the failures."""
    done = [row for row in rows if "result" in row]
    catalogue = [row for row in done if row["row"] != "control"]
    control = next((row["result"] for row in done if row["row"] == "control"), "not run")
    count = lambda kind: sum(row["result"] == kind for row in catalogue)
    card = {"rows_total": len(catalogue), "rows_auto": len(catalogue) - count("manual"), "rows_pass": count("pass"),
            "rows_fail": count("fail"), "rows_skipped": count("skip"), "controls": control, **machine(),
            "rows": done}
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "card.json"), "w", encoding="utf8") as file:
        json.dump(card, file, indent=1)
    table = ["| row | fault | result | s | tests, or why there is none |", "|--:|---|---|--:|---|"]
    for row in done:
        how = ", ".join(test.rsplit("::", 1)[1] for test in row["tests"]) or row.get("why_not", "")
        table.append(f"| {row['row']} | {row['fault']} | {row['result']} | {row['seconds']} | {how} |")
    table.append("\n{rows_auto} of {rows_total} rows automatic; {rows_pass} pass, {rows_fail} fail, {rows_skipped} "
                 "skipped; controls: {controls}. {date}, {processor}, {cores} cores, load at the end {load}".format(**card))
    text = "\n".join(table)
    with open(os.path.join(out, "card.md"), "w", encoding="utf8") as file:
        file.write(text + "\n")
    return text, count("fail") + (control == "fail")


def numbers(text):
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from [first] if first == "control" else range(int(first), int(last or first) + 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1-96,control", help="such as 1-16,24,control")
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
        write(rows, args.out)
    table, failures = write(rows, args.out)
    print(table)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
