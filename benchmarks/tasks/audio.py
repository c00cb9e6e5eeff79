"""Two audio models with their packages' weights: pruned by 20 %, decomposed, int8, by the packages' own measures.

python benchmarks/tasks/audio.py pitch
python benchmarks/tasks/audio.py speaker

`pip install torchcrepe resemblyzer`. The audio is synthesized: tones with harmonics, vibrato and noise for torchcrepe's
tiny model; for resemblyzer's speaker encoder voices of a source and three formants, vowel after vowel.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import compresskit

RATE = 16000
HOP = 160
TRAIN_TONES, TEST_TONES = 40, 20
SPEAKERS, UTTERANCES = 24, 6
RECOVERY: dict[str, Any] = {"recover": "kd", "labels": "ignore", "optimizer": "adamw", "batch_size": 64}


# -- pitch ----------------------------------------------------------------------------------------------------------


def tone(generator: np.random.Generator, seconds: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """A tone with harmonics, a glide, vibrato and noise.

    Returns:
        samples and their fundamental in Hz, both (seconds * RATE,).
    """
    times = np.arange(int(seconds * RATE)) / RATE
    start, end = np.exp(generator.uniform(np.log(80), np.log(800), 1)), 2 ** generator.uniform(-0.5, 0.5, 1)
    vibrato = 2 ** (generator.uniform(0, 50) / 1200 * np.sin(2 * np.pi * generator.uniform(4, 7) * times))
    fundamental = start * end ** (times / seconds) * vibrato
    phase = 2 * np.pi * np.cumsum(fundamental) / RATE
    tilt = generator.uniform(0.8, 2.0)
    samples = sum(
        np.sin(number * phase + generator.uniform(0, 2 * np.pi)) * generator.uniform(0.3, 1) / number**tilt
        for number in range(1, 1 + int(generator.integers(3, 12)))
    )
    samples = samples / np.abs(samples).max() + generator.normal(0, generator.uniform(0, 0.1), len(times))
    return samples.astype(np.float32), fundamental


def frames(samples: np.ndarray) -> Tensor:
    """Normalized frames, (frames, 1024), as the package makes them."""
    import torchcrepe

    return torch.cat([frame.clone() for frame in torchcrepe.preprocess(torch.tensor(samples)[None], RATE, HOP)])


def pitch_measure(module: nn.Module, tones: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    """What the package's own `predict` says with a module in the tiny model's place.

    Returns:
        distance to the true pitch in cents, and the pitch in cents, (frames,) both.
    """
    import torchcrepe

    torchcrepe.infer.model, torchcrepe.infer.capacity = module.eval(), "tiny"
    off, said = [], []
    for samples, fundamental in tones:
        pitch = torchcrepe.predict(
            torch.tensor(samples)[None], RATE, HOP, fmin=50, fmax=1200, model="tiny", batch_size=512,
            decoder=torchcrepe.decode.weighted_argmax,
        )[0]  # fmt: skip
        places = np.minimum(np.arange(len(pitch)) * HOP, len(fundamental) - 1)
        inner = slice(4, -4)  # frames that reach over the ends hear half a tone
        cents = 1200 * pitch.log2()[inner]
        said.append(cents)
        off.append((cents - 1200 * torch.tensor(fundamental[places]).log2()[inner]).abs())
    return torch.cat(off), torch.cat(said)


def pitch() -> tuple[nn.Module, Any, Callable[[nn.Module], dict[str, float]]]:
    """torchcrepe's tiny model, frames to calibrate and recover with, and its measure."""
    import torchcrepe

    torchcrepe.load.model("cpu", "tiny")
    original = torchcrepe.infer.model
    generator = np.random.default_rng(0)
    train = torch.cat([frames(tone(generator)[0]) for _ in range(TRAIN_TONES)])
    tones = [tone(generator) for _ in range(TEST_TONES)]
    test = torch.cat([frames(samples) for samples, _ in tones])
    before = pitch_measure(original, tones)[1]

    def measure(module: nn.Module) -> dict[str, float]:
        off, said = pitch_measure(module, tones)
        with torch.inference_mode():
            bins, before_bins = module(test).argmax(1), original.eval()(test).argmax(1)
        return {
            "within 50 cents of the truth, %": 100 * float((off < 50).float().mean()),
            "median error, cents": float(off.median()),
            "within 50 cents of before, %": 100 * float(((said - before).abs() < 50).float().mean()),
            "same bin, %": 100 * float((bins == before_bins).float().mean()),
        }

    return original, {"train": train, "test": test}, measure


# -- speakers -------------------------------------------------------------------------------------------------------


def voice(speaker: int, utterance: int, seconds: float = 2.4) -> np.ndarray:
    """A voice of a source and three formants: vowels drawn anew for each utterance, the rest the speaker's own."""
    own, free = np.random.default_rng(speaker), np.random.default_rng(1000 * speaker + utterance + 10**6)
    pitch, length, tilt = own.uniform(85, 260), own.uniform(0.85, 1.25), own.uniform(0.6, 1.4)
    widths = own.uniform(60, 160, 3)
    vowels = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410]])
    count = int(seconds * RATE)
    times = np.arange(count) / RATE
    fundamental = pitch * (1 + 0.08 * np.sin(2 * np.pi * free.uniform(0.3, 0.8) * times + free.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(fundamental) / RATE
    said = np.zeros(count)
    pieces = np.array_split(np.arange(count), 8)
    for piece in pieces:
        formants = vowels[int(free.integers(len(vowels)))] * length
        for number in range(1, int(4000 / pitch)):
            heights = fundamental[piece].mean() * number
            gain = sum(1 / (1 + ((heights - f) / w) ** 2) for f, w in zip(formants, widths, strict=True))
            said[piece] += gain / number**tilt * np.sin(number * phase[piece])
        said[piece] *= np.hanning(len(piece)) ** 0.3
    return (said / np.abs(said).max() * 0.5 + free.normal(0, 0.003, count)).astype(np.float32)


def speaker() -> tuple[nn.Module, Any, Callable[[nn.Module], dict[str, float]]]:
    """resemblyzer's encoder, spectrograms to calibrate and recover with, and its measure."""
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import wav_to_mel_spectrogram

    original = VoiceEncoder("cpu", verbose=False).eval()
    spectrograms = [
        torch.from_numpy(wav_to_mel_spectrogram(voice(100 + one, number))[:160])
        for one in range(SPEAKERS) for number in range(UTTERANCES)
    ]  # fmt: skip
    train = torch.stack(spectrograms)
    test = [[voice(one, number) for number in range(UTTERANCES)] for one in range(SPEAKERS)]
    held = torch.stack([torch.from_numpy(wav_to_mel_spectrogram(wavs[0])[:160]) for wavs in test])

    def embeddings(module: nn.Module) -> Tensor:
        """(speakers, utterances, 256), by the package's own `embed_utterance`."""
        rows = [[torch.from_numpy(module.embed_utterance(wav)) for wav in wavs] for wavs in test]  # type: ignore[operator]
        return torch.stack([torch.stack(row) for row in rows])

    before = embeddings(original)

    def measure(module: nn.Module) -> dict[str, float]:
        after = embeddings(module)
        cosine = F.cosine_similarity(after, before, dim=2)
        return {
            "cosine to before": float(cosine.mean()),
            "smallest cosine": float(cosine.min()),
            "equal error rate, %": 100 * equal_error_rate(after),
        }

    return original, {"train": train, "test": held}, measure


def equal_error_rate(embeddings: Tensor) -> float:
    """Of telling equal from different speakers by the cosine of two utterances; (speakers, utterances, size) in."""
    flat = F.normalize(embeddings.flatten(0, 1), dim=1)
    speakers = torch.arange(len(flat)) // embeddings.shape[1]
    rows, columns = torch.triu_indices(len(flat), len(flat), 1)
    cosine, equal = (flat[rows] * flat[columns]).sum(1), speakers[rows] == speakers[columns]
    rates = [
        (float((cosine[equal] < bound).float().mean()), float((cosine[~equal] >= bound).float().mean()))
        for bound in cosine[equal].unique()
    ]
    return min(max(rate) for rate in rates)


# -- rows -----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Print a row for each way of compressing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pitch", "speaker"))
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--rows", nargs="+", default=[""], help="only rows whose name begins so")
    options = parser.parse_args()
    names = ("torchcrepe",) if options.what == "pitch" else ("resemblyzer",)
    print(f"command: python benchmarks/tasks/audio.py {' '.join(sys.argv[1:])}")
    print(f"torch {torch.__version__}, {names[0]} {version(names[0])}, {platform.machine()}, one thread")
    original, data, measure = pitch() if options.what == "pitch" else speaker()
    shared: dict[str, Any] = {"data": data, "latency_rounds": 0}
    recovery = {**RECOVERY, "epochs": options.epochs, "lr": 0.001 if options.what == "pitch" else 0.0003}
    refit: dict[str, Any] = {"reconstruct": "inputs", "samples": 512}
    # under a budget the ranks of LSTMs follow the energy anyway
    factors: dict[str, Any] = {"target_macs": 0.7}
    if options.what == "speaker":
        factors = {"lstms": "decompose", "energy": 0.95, "slower_layers": "allow"}
    calls = {
        "prune 20 % of the units": lambda: compresskit.prune(original, ratio=0.2, **refit, **shared),
        "prune 20 % of the units, kd without labels": lambda: compresskit.prune(
            original, ratio=0.2, **refit, **recovery, **shared
        ),
        "prune 20 % of the MACs": lambda: compresskit.prune(original, target_macs=0.8, **refit, **shared),
        "decompose": lambda: compresskit.decompose(original, **factors, **shared),
        "int8-static": lambda: compresskit.quantize(original, scheme="int8-static", **shared),
        "int8-dynamic": lambda: compresskit.quantize(original, scheme="int8-dynamic", **shared),
        "int8-weight": lambda: compresskit.quantize(original, scheme="int8-weight", **shared),
    }
    show("float", measure(original), None)
    for name, call in calls.items():
        if not name.startswith(tuple(options.rows)):
            continue
        started = time.process_time()
        result = call()
        show(name, measure(result.model.eval()), result.report, time.process_time() - started)


def show(name: str, figures: dict[str, float], report: Any, seconds: float = 0.0) -> None:
    """One row."""
    shown = ", ".join(f"{key}: {value:.4g}" for key, value in figures.items())
    if report is not None:
        before, after = report["original"], report["steps"][-1]["measurement"]
        sizes = ", ".join(f"{cost} {after[cost] / before[cost]:.0%}" for cost in ("macs", "parameters", "size_bytes"))
        shown += f" | {sizes}, {seconds:.0f} s of CPU"
    print(f"{name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
