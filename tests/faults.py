"""The fault suite: runs every row's tests and prints the score card (`make faults`).

tests/faults/rows.json has the catalogue: each row's fault, the tests that inject it, or why none does. A
test `row_NN_...` or `row_NN_and_MM_...` in tests/*.rs belongs to its rows without being listed. Tests run
one by one, or with --jobs side by side; a row passes when all of its tests do, skipped ones do not count as passed. Tests called
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
from concurrent.futures import ThreadPoolExecutor

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
    """The test programs by name, built, all that `cargo` names or all; `lib` is that of the unit tests."""
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


# A network in which nothing is but the test.
ALONE = "ip link set lo up; ip link set lo multicast on; ip route add 224.0.0.0/4 dev lo; exec \"$0\" \"$@\""


def run(program, test, args):
    """pass, fail or skip, the seconds it took, and what it said on stderr and stdout."""
    start = time.monotonic()
    command = [program, "--exact", test, "--include-ignored", "--nocapture"]
    if args.jobs > 1:
        command = ["unshare", "-n", "sh", "-c", ALONE, *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as child:
        try:
            out, said = child.communicate(timeout=args.limit)
            if child.returncode or "1 passed" not in out:
                result = "fail"
            else:
                result = "skip" if re.search(r"^SKIP", said, re.M) else "pass"
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # with the node and the peers that it started
            result, said, out = "fail", f"no end after {args.limit} s", child.communicate()[0]
    return result, time.monotonic() - start, said, out


# Rows about what busy cores do, or whether nobody notices: nothing else may run beside them.
TIMED = re.compile(r"row_(30|93|94)_")


def run_all(tests, programs, known, args):
    """Runs the tests that are not known yet, so many at a time, the timed ones by themselves."""

    def one(test):
        file, name = test.split("::", 1)
        result = run(programs[file], name, args) if file in programs else ("skip", 0.0, "not built", "")
        said = "" if result[0] == "pass" else "".join(result[2:])
        print(f"{result[0]:5}{result[1]:6.1f} s  {test}\n{said}", end="", file=sys.stderr, flush=True)
        return test, result

    unknown = dict.fromkeys(test for test in tests if test not in known)
    with ThreadPoolExecutor(args.jobs) as pool:
        known.update(pool.map(one, [test for test in unknown if not TIMED.search(test)]))
    known.update(map(one, filter(TIMED.search, unknown)))


def judge(row, known):
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
    """The card, as JSON and as a table; returns the table and the failures."""
    catalogue = [row for row in rows if row["row"] != "control"]
    control = next((row["result"] for row in rows if row["row"] == "control"), "not run")
    count = lambda kind: sum(row["result"] == kind for row in catalogue)
    card = {"rows_total": len(catalogue), "rows_auto": len(catalogue) - count("manual"), "rows_pass": count("pass"),
            "rows_fail": count("fail"), "rows_skipped": count("skip"), "controls": control, **machine(),
            "rows": rows}
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "card.json"), "w", encoding="utf8") as file:
        json.dump(card, file, indent=1)
    table = ["| row | fault | result | s | tests, or why there is none |", "|--:|---|---|--:|---|"]
    for row in rows:
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
    parser.add_argument("--jobs", type=int, default=1, help="tests at a time, each in a network namespace (root)")
    parser.add_argument("--dev", action="store_true", help="the dev profile instead of release")
    args = parser.parse_args()
    cargo = ["--locked", *([] if args.dev else ["--release"])]
    wanted = set(numbers(args.rows))
    rows = [row for row in catalogue() if row["row"] in wanted]
    # Builds with planted faults refuse to run without one, so they are apart; tests/faults_inject.rs alone
    # needs them. They come last, since the second build replaces the node.
    tests = [test for row in rows for test in row["tests"]]
    planted = [test for test in tests if test.startswith("faults_inject::")]
    plain = [test for test in tests if test not in planted]
    files = {test.split("::")[0] for test in plain}
    targets = [word for file in sorted(files) for word in (["--lib"] if file == "lib" else ["--test", file])]
    known = {}
    run_all(plain, binaries([*cargo, *targets]) if plain else {}, known, args)
    if planted:
        injected = [*cargo, "--features", "fault-injection", "--test", "faults_inject"]
        run_all(planted, binaries(injected), known, args)
    for row in rows:
        judge(row, known)
    table, failures = write(rows, args.out)
    print(table)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
