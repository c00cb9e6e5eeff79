"""Typical mistakes in the shell, in recipes and in Python: the line that each gets, its exit code, and the seconds.

python benchmarks/person/mistakes.py [--only TEXT] > benchmarks/results/mistakes.md
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = "builtin:digits_cnn_small"
PRUNE = f"prune {SMALL} --data digits --latency-rounds 0 -q -o out"
_SAID = ("compresskit:", "compresskit.core.errors.", "warning:")
#: (mistake, command in which `ck` is compresskit, words of the mend that its line must hold)
MISTAKES = (
    ("a model that is not there", "ck prune runs/bse --ratio 0.5", "a model is one of"),
    ("a misspelt model", "ck prune builtin:digits_cn --ratio 0.5", "did you mean"),
    ("a weights file that is not there", f"ck prune {SMALL} --weights w.pth --ratio 0.5", "w.pth"),
    ("a text file for weights", f"ck prune {SMALL} --weights notes.txt --ratio 0.5", "notes.txt"),
    ("weights of another model", "ck prune builtin:digits_mlp --weights base/model.safetensors --ratio 0.5",
     "name the model"),
    ("a misspelt option", f"ck {PRUNE} --raito 0.5", "--ratio"),
    ("a misspelt command", f"ck prnue {SMALL}", "did you mean"),
    ("50 for 50 %", f"ck {PRUNE} --ratio 50", "0.5"),
    ("a misspelt criterion", f"ck {PRUNE} --ratio 0.5 --criterion tailor", "did you mean"),
    ("a layer pattern that matches none", f"ck {PRUNE} --ratio 0.5 --protect 'layr1.*'", "layr1"),
    ("a scheme that needs data, without", f"ck quantize {SMALL} --scheme int8-static -q -o out", "--data"),
    ("recovery without data", f"ck prune {SMALL} --ratio 0.5 --recover kd -q -o out", "--data"),
    ("training options without training", f"ck {PRUNE} --ratio 0.5 --epochs 3", "set recover"),
    ("an impossible budget", f"ck {PRUNE} --target-macs 0.0001", "give at least"),
    ("nothing says how much", f"ck {PRUNE}", "give ratio"),
    ("two amounts", f"ck {PRUNE} --ratio 0.5 --target-macs 0.5", "give one"),
    ("1,000 outputs on ten folders", "ck evaluate torchvision:resnet18 --data imagefolder:ten", "outputs"),
    ("fewer outputs than classes", f"ck {PRUNE} --ratio 0.5 --model-arg num_classes=3", "num_classes"),
    ("no weights", f"ck prune {SMALL} --data digits --ratio 0.5 --latency-rounds 0 -o out", "weights"),
    ("a teacher with random weights", f"ck distill {SMALL} --teacher builtin:digits_cnn --data digits --epochs 0.1 "
     "--latency-rounds 0 -o out", "teacher"),
    ("data that is not there", f"ck prune {SMALL} --ratio 0.5 --data imagefolder:photos", "choose from"),
    ("a misspelt kind of data", f"ck prune {SMALL} --ratio 0.5 --data imagefoldr:ten", "did you mean"),
    ("broken YAML", "ck run broken.yaml", "line 4: expected"),
    ("an unknown key in YAML", "ck run key.yaml", "did you mean"),
    ("a recipe that is not there", "ck run recipe.yml", "recipe.yml"),
    ("a misspelt format", "ck export base --format gguff -o x", "did you mean"),
    ("no permission to write", f"ck prune {SMALL} --ratio 0.5 --latency-rounds 0 -q -o /proc/out", "output"),
    ("an output that exists", f"ck prune {SMALL} --ratio 0.5 --latency-rounds 0 -q -o base", "--force"),
    ("a device that is not there", f"ck {PRUNE} --ratio 0.5 --device cuda", "device"),
    ("an option of another technique", f"ck quantize {SMALL} --ratio 0.5", "--"),
    ("a guard without a metric", f"ck prune {SMALL} --ratio 0.5 --max-drop 0.01", "--data"),
    ("a recovery option given twice", "ck run twice.yaml", "give one"),
    ("steps that are no list", "ck run mapping.yaml", "must be a list"),
    ("a tab in YAML", "ck run tab.yaml", "tab"),
    ("a key twice in YAML", "ck run double.yaml", "line"),
    ("a misspelt technique in YAML", "ck run step.yaml", "did you mean"),
    ("a word for a number in YAML", "ck run word.yaml", "number"),
    ("a step that --set does not find", "ck run good.yaml --set steps.3.prune.ratio=0.5", "steps"),
    ("--set without a value", "ck run good.yaml --set ratio", "KEY=VALUE"),
    ("a recipe without output", "ck run good.yaml", "-o DIR"),
    ("an option without its value", f"ck prune {SMALL} --data digits --ratio", "argument"),
    ("a negative share", f"ck {PRUNE} --ratio -0.5", "ratio"),
    ("a misspelt scheme", f"ck quantize {SMALL} --scheme int9-weight", "did you mean"),
    ("a class that is not in the file", "ck prune net.py:Nett --ratio 0.5", "did you mean"),
    ("a factory that needs an argument", "ck prune net.py:Net --ratio 0.5 --data digits", "--model-arg"),
    ("a shape with x", "ck prune net.py:Net --model-arg classes=10 --ratio 0.5 --input 1x8x8", "3,224,224"),
    ("no shape", "ck prune net.py:Net --model-arg classes=10 --ratio 0.5", "--input"),
    ("a model that is no artifact folder", "ck evaluate ten --data digits", "manifest"),
    ("another kind of file to predict on", "ck predict base notes.txt", "notes.txt"),
    ("an exported file to be pruned", "ck prune net.onnx --ratio 0.5", "none of"),
    ("a misspelt option in Python", "py 'compresskit.prune(net, ration=0.5)'", "did you mean"),
    ("a share above one in Python", "py 'compresskit.prune(net, example=x, ratio=50)'", "0.5"),
    ("no example in Python", "py 'compresskit.prune(net, ratio=0.5)'", "give example"),
    ("a state_dict for a model in Python", "py 'compresskit.prune(net.state_dict(), ratio=0.5)'", "nn.Module"),
    ("a folder that is not there in Python", "py 'compresskit.load(\"runs/bse\")'", "runs/bse"),
    ("a data set that is no data set in Python", "py 'compresskit.prune(net, data=[1, 2], ratio=0.5)'", "data"),
)  # fmt: skip


def prepare(folder: Path) -> None:
    """Files that the mistakes name."""
    (folder / "notes.txt").write_text("not weights")
    (folder / "broken.yaml").write_text(f"model: {SMALL}\nsteps:\n  - prune: {{ratio: 0.5\n")
    (folder / "key.yaml").write_text(f"model: {SMALL}\nsteps:\n  - prune: {{ration: 0.5}}\n")
    (folder / "twice.yaml").write_text(
        f"model: {SMALL}\ndata: digits\nsteps:\n"
        "  - prune: {ratio: 0.5, recover: {mode: kd, epochs: 2}, epochs: 3}\n"
    )
    head = f"model: {SMALL}\ndata: digits\n"
    (folder / "mapping.yaml").write_text(head + "steps:\n  prune: {ratio: 0.5}\n")
    (folder / "tab.yaml").write_text(head + "steps:\n\t- prune: {ratio: 0.5}\n")
    (folder / "double.yaml").write_text(head + "data: npz:x.npz\nsteps:\n  - prune: {ratio: 0.5}\n")
    (folder / "step.yaml").write_text(head + "steps:\n  - prunne: {ratio: 0.5}\n")
    (folder / "word.yaml").write_text(head + "steps:\n  - prune: {ratio: 0.5, recover: {mode: kd, epochs: two}}\n")
    (folder / "good.yaml").write_text(head + "steps:\n  - prune: {ratio: 0.5}\n")
    (folder / "net.onnx").write_bytes(b"\x08\x09")
    (folder / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))\n"
    )
    from PIL import Image

    for split in ("train", "test"):
        for number in range(10):
            place = folder / "ten" / split / f"class{number}"
            place.mkdir(parents=True)
            for image in range(2):
                Image.new("RGB", (64, 64), (number * 20, image * 90, 0)).save(place / f"{image}.png")


def attempt(command: str, folder: Path) -> tuple[int, list[str], float, float]:
    """Exit code, lines on stderr, seconds until the last of them, and seconds of the processor."""
    made = "import compresskit, torch; from net import Net; net = Net(10); x = torch.zeros(1, 1, 8, 8)"
    script = (
        f'ck() {{ {sys.executable} -m compresskit "$@"; }}; py() {{ {sys.executable} -c "{made}; $1"; }}; {command}'
    )
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120, env=os.environ
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stderr.splitlines(), seconds, spent


def main() -> None:
    """Try them all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    print(
        "# Mistakes\n\nMade by `python benchmarks/person/mistakes.py` on",
        platform.platform(),
        f"Python {sys.version.split()[0]};",
    )
    print("seconds until the command ends, on a machine that others share, and of its processor.\n")
    print("| mistake | line | rc | seconds | processor | mend named |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        attempt(f"ck prune {SMALL} --ratio 0.5 --latency-rounds 0 -q -o base", folder)
        for mistake, command, mend in MISTAKES:
            if only not in mistake:
                continue
            subprocess.run(["rm", "-rf", "out", "out.steps"], cwd=folder, check=True)
            code, lines, seconds, spent = attempt(command, folder)
            said = (
                [line for line in lines if line.startswith(("compresskit:", "compresskit.core.errors.", "warning:"))]
                or lines[-1:]
                or [""]
            )
            line = next((one for one in said if mend in one), said[-1]).replace("|", "\\|").replace(name, "...")
            named = ("yes" if any(mend in one for one in said) else "NO") if mend else "no words expected"
            print(f"| {mistake} | {line[:300]} | {code} | {seconds:.1f} | {spent:.1f} | {named} |", flush=True)


if __name__ == "__main__":
    main()
