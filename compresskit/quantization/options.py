"""What `quantize` takes. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import model_validator

from ..analysis.reconstruction.options import ReconstructionOptions
from ..core.costs import cost_of, field_of
from ..core.effort import Efforts, Passes
from ..core.options import choice, option
from ..core.shares import Share
from ..training.budgets import BudgetOptions, with_targets
from ..training.options import RecoverOptions
from .option_conflicts import conflicts, format_fact
from .tables import CODEBOOK_STARTS, FORMATS, OBSERVER_CHOICES, ROUNDINGS, SCHEMES, Scheme

#: few bits and folded batch norms make gradients large: the loop's own learning rate, unclipped, ends in NaN
_QAT_DEFAULTS = {"lr": 1e-3, "grad_clip": 1.0}


@with_targets("quantize", section="Allocation")
class QuantizeOptions(ReconstructionOptions, BudgetOptions):
    """Store weights, and compute activations, in few bits."""

    efforts: ClassVar[Efforts] = {"fast": {"calibration_samples": 128}, "best": {"calibration_samples": 2048}}

    scheme: Annotated[str, choice(SCHEMES)] = option("int8-weight", "what is quantized, and to what", section="Scheme")
    bits: int | None = option(
        None, "bits per weight, in place of the scheme's own, 1 to 8", section="Scheme", ge=1, le=8
    )
    activation_bits: int | None = option(
        None, "bits an activation in the place of the scheme's own, 2 to 8", section="Scheme", ge=2, le=8
    )
    bits_for: dict[str, int] = option(
        {}, "bits by layer name pattern, e.g. 'layer1.*=8'; the first match counts", section="Scheme"
    )
    format_for: dict[str, Annotated[str, choice(FORMATS)]] = option(
        {},
        "number format of weights by layer name pattern in the place of the scheme's, e.g. 'layer3.*=nf4'; the first "
        "match counts",
        section="Scheme",
    )
    granularity: Literal["auto", "tensor", "channel", "group"] = option(
        "auto", "which weights share a scale; auto takes the scheme's", section="Scheme"
    )
    group_size: int = option(64, "weights that share a scale, for granularity group", section="Scheme", ge=2)
    weight_range: Literal["symmetric", "affine"] = option(
        "symmetric", "whether weight ranges are centred on zero", section="Scheme"
    )
    weight_search: Literal["auto", "minmax", "mse", "even"] = option(
        "auto",
        "weight ranges cover all values (minmax), have the least squared error (mse), or reach equally far to both "
        "sides (even: half a step is lost at one end, and steps are smaller); auto: below 8 bits mse, of groups of at "
        "most 128 minmax, and even at 2 bits",
        section="Scheme",
    )
    codebook_start: Annotated[str, choice(CODEBOOK_STARTS)] = option(
        "linear", "where k-means starts, for scheme codebook", section="Scheme"
    )
    kv_bits: int | None = option(
        None,
        "bits of the keys and values that generation caches, of causal transformers models; simulated",
        section="Scheme",
        ge=2,
        le=8,
    )
    coding: Literal["packed", "huffman"] = option(
        "packed",
        "how weight codes are stored: in their bits, or Huffman-coded with zeros as run-lengths",
        section="Scheme",
    )
    code_range: Literal["auto", "full", "half"] = option(
        "auto",
        "int8 weights use all codes or half of them; auto: half with int8 activations, so that x86 kernels without "
        "VNNI cannot saturate, and full for causal language models with dynamic ranges",
        section="Scheme",
    )
    target_bits: float | None = option(
        None,
        "average bits a weight; each layer's bits are chosen by its measured sensitivity",
        section="Allocation",
        ge=1,
        le=8,
    )
    candidate_bits: list[int] = option(
        [2, 3, 4, 6, 8], "bits that target_bits or a budget chooses from", section="Allocation", min_length=1
    )
    candidate_formats: list[Annotated[str, choice(FORMATS)]] = option(
        [],
        "number formats that target_bits or a budget chooses from beside them, e.g. nf4; bytes then count scales, too",
        section="Allocation",
    )
    layers: list[str] = option(
        [], "quantize only layers that one of these patterns matches", section="Layers", takes="layers"
    )
    skip: list[str] = option(
        [], "leave out layers that one of these patterns matches", section="Layers", takes="layers"
    )
    first_last: Literal["same", "int8", "keep"] = option(
        "int8", "first and last layer: like the others, in 8 bits at least, or kept in float", section="Layers"
    )
    fold_batchnorm: bool = option(True, "fold batch normalization into the layer before it", section="Layers")
    observer: Annotated[str, choice(OBSERVER_CHOICES)] = option(
        "mse", "how activation ranges are found", section="Calibration"
    )
    percentile: float = option(
        99.99,
        "share of values inside the range, in percent, for observer percentile",
        section="Calibration",
        gt=50,
        le=100,
    )
    calibration_samples: int = option(512, "training inputs to calibrate on", section="Calibration", ge=1)
    calibration_batch: int = option(64, "inputs a batch while calibrating", section="Calibration", ge=1)
    blocks: list[str] = option(
        [],
        "modules that are calibrated and rounded as one block each, by name pattern, in the place of those that are "
        "found; explain shows them",
        section="Calibration",
    )
    explain: bool = option(
        False,
        "show the blocks in whose order layers are calibrated, with what enters and leaves each",
        section="Report",
    )
    activation_range: Literal["affine", "symmetric"] = option(
        "affine", "whether activation ranges are centred on zero", section="Calibration"
    )
    dynamic_ranges: Literal["auto", "tensor", "token", "channel"] = option(
        "auto",
        "ranges of scheme int8-dynamic: one a batch (tensor), as runtimes' dynamic quantizers have, one a token of "
        "what linear layers read, or one a channel (simulated: in integer kernels for depthwise convolutions only); "
        "auto: token for causal language models",
        section="Calibration",
    )
    quantize_additions: bool = option(
        True,
        "quantize also what additions read and write and what pools read, so that runtimes stay in integers",
        section="Calibration",
    )
    quantize_attention: bool = option(
        True,
        "quantize also both sides of products of activations (attention), and what MultiheadAttention projects",
        section="Calibration",
    )
    rounding: Annotated[str, choice(ROUNDINGS)] = option(
        "nearest",
        "how weights are rounded; gptq below 8 bits where there are data (unless it is given, or blocks are "
        "reconstructed)",
        section="Rounding",
    )
    equalize: bool = option(
        False, "equalize the weight ranges of neighbouring layers first (Nagel et al., 2019)", section="Rounding"
    )
    bias_correction: bool = option(
        False, "take the mean output shift of rounding out of the biases (Nagel et al., 2019)", section="Rounding"
    )
    smooth: Share | None = option(
        None,
        "SmoothQuant: share of the activations' range moved into the weights, e.g. 0.5",
        section="Rounding",
        ge=0,
        le=1,
    )
    rotate: bool = option(
        False,
        "turn what flows between a transformer's layers by a random Hadamard matrix, folded into its weights, so that "
        "fewer entries are large (Ashkboos et al., QuaRot, 2024)",
        section="Rounding",
    )
    awq: bool = option(False, "scale input channels by their magnitude to the searched power (AWQ)", section="Rounding")

    qat: Literal["none", "kd", "finetune"] = option(
        "none",
        "train weights and step sizes while quantized (LSQ), with the float model as teacher (kd) or without; lr is "
        "0.001 and grad_clip 1 unless given",
        section="Training",
    )

    def chooses_bits(self) -> bool:
        """Whether each layer's bits are chosen by sensitivity, under an average or a budget of an exact cost."""
        return self.target_bits is not None or any(cost_of(name).known == "exact" for name in self.targets())

    def trains(self) -> bool:
        """Whether training options mean something."""
        return super().trains() or self.qat != "none"

    def has_teacher(self) -> bool:
        """Whether this step learns from the original model, so that it can do without labels."""
        return super().has_teacher() or self.qat == "kd"

    def tunes_blocks(self) -> bool:
        """Whether blocks are tuned where data and time allow it."""
        return super().tunes_blocks() and (self.reconstruct == "block" or self.few_bits())

    def passes(self, examples: int) -> Passes:
        """The examples that a step with these options sends through the model, roughly."""
        twice = self.qat != "none" and self.recover.mode != "none"
        again = self.recover.passes_of_training(examples) if twice else Passes()
        taught = self.recover.passes_of_training(examples).backward if self.qat == "kd" else 0.0
        looks = 6.0 if self.rounding == "gptq" else 3.0  # its moments cost as much again
        return super().passes(examples).plus(again).plus(Passes(looks * self.calibration_samples + taught))

    def qat_options(self) -> RecoverOptions:
        """The options that quantization-aware training runs with."""
        rest = {name: value for name, value in _QAT_DEFAULTS.items() if name not in self.recover.model_fields_set}
        return self.recover.model_copy(update=rest)

    def for_causal_models(self) -> QuantizeOptions:
        """The options with what "auto" stands for where the model predicts next tokens.

        Tokens differ in size by orders of magnitude, and what runs such models in integers does not saturate.
        """
        if self.scheme_row().activations != "dynamic":
            return self
        settled = {"dynamic_ranges": "token", "code_range": "full"}
        return self.model_copy(update={key: to for key, to in settled.items() if getattr(self, key) == "auto"})

    def with_data(self, *, tuned: bool) -> QuantizeOptions:
        """The options of a run that has data: GPTQ rounds weights of few bits, where nothing else mends them.

        To nearest and by GPTQ, 4 bits: ResNet-32 77.45 and 81.7 of 82.3 %, ResNet-56 88.45 and 89.40 of 89.70 %, a
        U-Net's mIoU 75.40 and 80.78 of 81.56 (with bias correction). Tuned blocks start from the nearest weights, QAT
        from those of GPTQ, which it keeps where training ends no better.

        Args:
            tuned: blocks are reconstructed afterwards.
        """
        mended = tuned or self.chooses_bits() or "rounding" in self.model_fields_set
        plain = self.scheme_row().activations == "none" and self.few_bits()
        if mended or not plain or "rounding" not in format_fact(self.scheme_row().format, "options"):
            return self
        return self.model_copy(update={"rounding": "gptq"})

    def without_training(self) -> Self:
        """The same step without any training, that of learned steps included."""
        return super().without_training().model_copy(update={"qat": "none"})

    def scheme_row(self) -> Scheme:
        """The scheme that the name stands for; a number format by itself is one of weights."""
        found = SCHEMES.load(self.scheme)
        return found if isinstance(found, Scheme) else Scheme(self.scheme, found.bits, "none", found.granularity)

    def weight_bits(self) -> int:
        """Bits a weight where no pattern says otherwise."""
        return self.bits or self.scheme_row().bits

    def input_bits(self) -> int:
        """Bits an activation, where the scheme quantizes activations."""
        return self.activation_bits or self.scheme_row().activation_bits

    def few_bits(self) -> bool:
        """Whether some weights or activations get less than 8 bits, on uniform levels."""
        row = self.scheme_row()
        if "qat" not in format_fact(row.format, "options"):
            return False
        activations = self.input_bits() if row.activations != "none" else 8
        return self.chooses_bits() or min(self.weight_bits(), activations, *self.bits_for.values(), 8) < 8

    def weight_granularity(self) -> str:
        """Which weights share a scale."""
        return self.scheme_row().granularity if self.granularity == "auto" else self.granularity

    def uses_half_range(self) -> bool:
        """Whether weights of 8 bits use codes of 7 bits."""
        return self.code_range == "half" or (self.code_range == "auto" and self.scheme_row().activations != "none")

    def spreads_pairs(self) -> bool:
        """Whether scales of 8-bit weights are widened for the largest sum of two neighbours (formats.saturation)."""
        automatic = self.code_range == "auto" and self.uses_half_range() and self.weight_range == "symmetric"
        return automatic and self.rounding == "nearest" and self.qat == "none" and self.weight_granularity() != "group"

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> QuantizeOptions:
        problems = conflicts(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def needs_data(self) -> bool:
        """Whether calibration data has to be there."""
        return bool(self._calibrated())

    def may_need_data(self) -> bool:
        """The same without running a user's own rounding, of which it is not known yet."""
        return not ROUNDINGS.builtin(self.rounding) or self.needs_data()

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        return [*super().data_readers(), *self._calibrated()]

    def packages(self) -> dict[str, str]:
        """Optional packages that these options need: module to import -> the extra that brings it."""
        timed = dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx")
        return super().packages() | (timed if self.timed_target() else {})

    def chosen_by(self) -> list[str]:
        """The options that choose each layer's bits."""
        return [*map(field_of, self.targets()), *(["target_bits"] if self.target_bits is not None else [])]

    def _calibrated(self) -> list[str]:
        """What is calibrated or trained on data."""
        readers = {
            f"scheme {self.scheme}": self.scheme_row().activations == "static",
            f"rounding {self.rounding}": bool(ROUNDINGS.needs(self.rounding)),
            "bias_correction": self.bias_correction,
            "smooth": self.smooth is not None,
            "awq": self.awq,
            f"qat {self.qat}": self.qat != "none",
            " and ".join(self.chosen_by()): self.chooses_bits(),
        }
        return [f"{name} needs data" for name, reads in readers.items() if reads]

    def may_need_moments(self) -> bool:
        """The same as `needs_moments` without running a user's own rounding."""
        return not ROUNDINGS.builtin(self.rounding) or self.needs_moments()

    def needs_moments(self) -> bool:
        """Whether the moments of layer inputs are needed."""
        return bool(ROUNDINGS.needs(self.rounding)) or self.bias_correction or self.smooth is not None or self.awq
