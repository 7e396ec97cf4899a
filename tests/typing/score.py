"""Reads what `pyright --verifytypes jaxbias --outputjson` wrote; exits with 1 where too few public names have a type.

Counted are the rooms that a user calls: not the program, the experiments, the self-check and the checker's inner files.
"""

import json
import re
import sys
from pathlib import Path

WANTED = 0.97
INNER = re.compile(r"jaxbias\.(app|claims|selfcheck|__main__|verify\.(?!entrances|report|single_steps)[a-z_]+\.)")

symbols = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["typeCompleteness"]["symbols"]
public = [symbol for symbol in symbols if symbol["isExported"] and not INNER.match(symbol["name"])]
unknown = [symbol["name"] for symbol in public if not symbol["isTypeKnown"]]
print("\n".join(unknown))
score = 1 - len(unknown) / max(len(public), 1)
print(f"{score:.1%} of {len(public)} public names have a known type, {WANTED:.0%} wanted; {len(unknown)} have none")
sys.exit(not public or score < WANTED)
