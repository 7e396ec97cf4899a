"""Reads what `pyright --verifytypes jaxbias --outputjson` wrote; exits with 1 where too few names have a type."""

import json
import sys
from pathlib import Path

WANTED = 0.95

report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["typeCompleteness"]
unknown = [s["name"] for s in report["symbols"] if s["isExported"] and not s["isTypeKnown"]]
print("\n".join(unknown))
score = report["completenessScore"]
print(f"{score:.1%} of the public names have a known type, {WANTED:.0%} wanted; {len(unknown)} have none")
sys.exit(score < WANTED)
