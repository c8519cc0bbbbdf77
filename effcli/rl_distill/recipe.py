"""The settings of `effcli rl-distill`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from effcli.core.recipe import Recipe, Section
from effcli.core.recipe_changes import Renamed
from effcli.rl_distill.environments.settings import EnvironmentSection

Size = Literal["small", "normal", "large"]

RENAMED = (
    Renamed("method", "method", {"ppo": "opd-da", "dqn": "opd-da-dqn"}, when="opd"),
    Renamed("steps", "train.env_steps"),
)


class RlTrainSection(Section):
    """How long policies learn."""

    env_steps: int = Field(
        100_000,
        ge=1,
        description="Environment steps of each policy, 1 or more: one action in one copy. An Atari step is four "
        "frames. A group of three takes three times as many in total.",
    )
    tensorboard: bool = Field(
        False,
        description="true also writes the logged values for TensorBoard, to tensorboard/ in the run directory.",
    )


class OpdSection(Section):
    """Online policy distillation with decision attention; see docs/methods/opd-da.md."""

    teachers: tuple[str, ...] = Field(
        (),
        description="Trained policies that also teach: policy files, run directories (their best policy), or zips of "
        "Stable-Baselines3; random is an untrained policy, as a control.",
    )
    peers: bool = Field(
        True, description="Whether policies teach each other; with false they learn only from the teachers."
    )
    targets: Literal["attention", "mean", "none"] = Field(
        "attention",
        description="How peers are weighted: attention learns weights per state, mean weights all peers "
        "equally, none trains every policy on its own.",
    )
    decision_weight: float = Field(
        1.0,
        ge=0,
        description="lambda_d, 0 or more: weight of the distance between a policy's decisions and its target. Higher "
        "values make policies imitate their peers more.",
    )
    feature_weight: float = Field(
        0.0,
        ge=0,
        description="lambda_f, 0 or more: weight of the distance between a policy's features and its target.",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="tau, above 0: softens the decisions in the KL divergence. Higher values make less likely actions "
        "count more; OKDDip uses 3.",
    )
    ramp: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of training, 0 to 1, during which both weights rise to their full size; 0 starts "
        "at full size.",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="What both weights do once they have risen: constant keeps them, linear and cosine "
        "lower them to 0 by the end of training. Lowering is not part of the published method.",
    )
    aggregate: Literal["logits", "probs"] = Field(
        "logits",
        description="What is averaged over peers: logits, as in OKDDip, or probs, the softened probabilities.",
    )
    q_loss: Literal["mse", "kl"] = Field(
        "mse",
        description="Distance between the Q-values of DQN: mse is the mean squared error over actions, kl the "
        "divergence of their softmax.",
    )
    q_centre: bool = Field(
        False,
        description="true subtracts the mean over actions from each policy's Q-values before they are compared, so "
        "that their scales do not matter; false compares them as they are. Not part of the published method.",
    )
    attention_dim: int = Field(
        16, ge=1, description="d, 1 or more: width of queries and keys. 64 suits the features of images."
    )
    attention_scale: Literal["sqrt", "none"] = Field(
        "sqrt",
        description="sqrt divides attention scores by the square root of d; none leaves them unscaled, as in OKDDip.",
    )
    attention_self: Literal["exclude", "include"] = Field(
        "exclude",
        description="Whether a policy is among its own peers: exclude leaves it out of the softmax, include "
        "keeps it, as in OKDDip.",
    )
    attention_input: Literal["feature", "decision"] = Field(
        "feature",
        description="What queries and keys are computed from: feature, the last hidden layer, or decision, the logits "
        "or Q-values. Policies of different sizes need decision, which is then the default.",
    )
    attention_train: Literal["target", "none"] = Field(
        "target",
        description="target trains queries and keys through the distillation targets; none keeps their random "
        "initial values.",
    )
    detach: Literal["peers", "none"] = Field(
        "peers",
        description="peers computes targets once per rollout or batch, without gradient; none computes them in every "
        "minibatch with gradient, so that a target also moves the peers, as in OKDDip.",
    )
    value_weight: float = Field(
        0.0,
        ge=0,
        description="0 or more: adds this times a peer's standardised recent return to its attention score, so that "
        "better peers count more. Not part of the published method.",
    )
    only_better: bool = Field(
        False,
        description="true imitates only in states where the policy's own advantage is negative (PPO only, after Dual "
        "Policy Distillation); false imitates everywhere. Not part of the published method.",
    )


class OpdDqnSection(OpdSection):
    """The same for DQN, whose decisions are Q-values and have another scale."""

    decision_weight: float = Field(
        0.1,
        ge=0,
        description="lambda_d, 0 or more: weight of the distance between a policy's Q-values and its target.",
    )
    feature_weight: float = Field(
        0.01,
        ge=0,
        description="lambda_f, 0 or more: weight of the distance between a policy's features and its target.",
    )
    ramp: float = Field(
        0.27,
        ge=0,
        le=1,
        description="Share of training, 0 to 1, during which both weights rise to their full size.",
    )


ALONE = OpdSection(targets="none")
"""What the methods without peers have in place of `opd`."""


class RlEvalSection(Section):
    """How the result is measured."""

    episodes: int = Field(
        20,
        ge=0,
        description="Episodes that each policy plays at the end with its most likely actions; 0 plays none.",
    )
    every: int = Field(
        0,
        ge=0,
        description="Environment steps of each policy between two evaluations during training, which save "
        "the best weights so far in model/best/; 0 evaluates only at the end.",
    )
    every_episodes: int = Field(
        10,
        ge=1,
        description="Episodes that each policy plays in an evaluation during training, 1 or more.",
    )
    kwargs: dict[str, Any] = Field(
        {},
        description="Arguments for the environment in all evaluations, in addition to env.kwargs or "
        "overriding them: for example levels that do not occur in training.",
    )
    window: int = Field(
        100,
        ge=1,
        description="A return is the mean over this many of the latest training episodes, 1 or more. Higher values "
        "make curves smoother and slower.",
    )


class RlDistillRecipe(Recipe):
    """What the recipes of all methods have."""

    task: Literal["rl-distill"] = Field("rl-distill", description="The command this recipe is for.")
    env: EnvironmentSection = Field(EnvironmentSection(), description="The environment.")
    train: RlTrainSection = Field(RlTrainSection(), description="Length and logging of training.")
    policies: tuple[Size, ...] = Field(
        ("normal", "normal", "normal"),
        min_length=1,
        description="One size per policy: small, normal or large networks (0.5, 1 and 2 times the usual width).",
    )
    eval: RlEvalSection = Field(RlEvalSection(), description="Measuring.")

    @property
    def named_code(self) -> tuple[str, str] | None:
        """The environment, where it is ``module:function``."""
        return ("env.id", self.env.id) if ":" in self.env.id else None

    @property
    def discount(self) -> float:
        """gamma of the algorithm."""
        section = getattr(self, "dqn", None) or getattr(self, "ppo", None)
        return section.gamma if isinstance(section, PpoSection | DqnSection) else PpoSection().gamma

    @property
    def distillation(self) -> OpdSection:
        """How policies teach each other."""
        return ALONE

    @property
    def compared_groups(self) -> tuple[str, ...]:
        """The groups that are trained with the same seeds to compare with."""
        return ()


class IndependentRecipe(RlDistillRecipe):
    """Policies that learn side by side, each by itself."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_peers(cls, data: Any) -> Any:
        found = [key for key in ("opd", "compare") if isinstance(data, Mapping) and key in data]
        if found:
            method = data.get("method", "this method")
            raise ValueError(
                f"{method} trains independent policies and has no {found[0]!r}; the methods opd-da and opd-da-dqn do"
            )
        return data


class OpdRecipe(RlDistillRecipe):
    """Policies that teach each other."""

    opd: OpdSection = Field(OpdSection(), description="How policies teach each other.")
    compare: tuple[Literal["independent", "mean"], ...] = Field(
        (),
        description="Groups that are also trained, with the same seeds, for comparison: independent (no "
        "peers) and mean (all peers weighted equally).",
    )

    @property
    def distillation(self) -> OpdSection:
        """How policies teach each other."""
        return self.opd

    @property
    def compared_groups(self) -> tuple[str, ...]:
        """The groups that are trained with the same seeds to compare with."""
        return self.compare

    @model_validator(mode="before")
    @classmethod
    def _compare_decisions_where_sizes_differ(cls, data: Any) -> Any:
        """Features of different widths, as those of teachers, have no common query: the default is `decision`."""
        if not isinstance(data, Mapping) or not isinstance(opd := data.get("opd", {}), Mapping):
            return data
        sizes = data.get("policies")
        is_mixed = isinstance(sizes, list | tuple) and any(size != sizes[0] for size in sizes)
        if not is_mixed and not opd.get("teachers"):
            return data
        return {**data, "opd": {"attention_input": "decision", **opd}}

    @model_validator(mode="after")
    def _features_have_one_size(self) -> OpdRecipe:
        if not self.opd.peers and not self.opd.teachers and self.opd.targets != "none":
            raise ValueError("opd.peers: without peers there must be opd.teachers")
        is_mixed = len(set(self.policies)) > 1
        if is_mixed and self.opd.attention_input == "feature" and self.opd.targets == "attention":
            raise ValueError(
                "opd.attention_input: policies of different sizes need 'decision', not 'feature'"
            )
        return self


class PpoSection(Section):
    """Proximal policy optimisation; the defaults are CleanRL's."""

    rollout: int = Field(
        128,
        ge=2,
        description="Steps of each copy between two updates, 2 or more. A rollout has rollout x copies states.",
    )
    epochs: int = Field(4, ge=1, description="Passes over each rollout, 1 or more.")
    minibatches: int = Field(4, ge=1, description="Gradient steps per pass, 1 or more: parts of a rollout.")
    learning_rate: float = Field(
        2.5e-4, gt=0, description="Initial learning rate of Adam, above 0; it falls linearly to 0."
    )
    gamma: float = Field(
        0.99, gt=0, le=1, description="Discount per step, above 0 to 1. Higher values look further ahead."
    )
    gae_lambda: float = Field(
        0.95,
        ge=0,
        le=1,
        description="lambda of the generalised advantage estimate, 0 to 1. Higher values rely less on the critic.",
    )
    clip: float = Field(
        0.2,
        gt=0,
        description="Clip range of the probability ratio, above 0; 0.1 is usual for Atari. Higher values allow larger "
        "changes of the policy per update.",
    )
    clip_values: bool = Field(
        True, description="true clips the change of the value estimates by the same range; false does not."
    )
    entropy_weight: float = Field(
        0.01, ge=0, description="Weight of the entropy bonus, 0 or more. Higher values explore more."
    )
    value_weight: float = Field(0.5, ge=0, description="Weight of the value loss, 0 or more.")
    grad_clip: float = Field(0.5, gt=0, description="Largest gradient norm of a policy, above 0.")


class DqnSection(Section):
    """Deep Q-learning; the defaults are CleanRL's."""

    replay: int = Field(
        10_000,
        ge=100,
        description="Transitions in the replay buffer of a policy, 100 or more; 100,000 and more for Atari.",
    )
    batch_size: int = Field(128, ge=1, description="Transitions per gradient step, 1 or more; 32 for Atari.")
    learning_starts: int = Field(
        10_000, ge=1, description="Environment steps before the first gradient step, 1 or more."
    )
    train_every: int = Field(
        10, ge=1, description="Environment steps between two gradient steps, 1 or more; 4 for Atari."
    )
    target_every: int = Field(
        500, ge=1, description="Environment steps between two copies to the target network, 1 or more."
    )
    learning_rate: float = Field(2.5e-4, gt=0, description="Learning rate of Adam, above 0.")
    anneal: bool = Field(
        True,
        description="true lets the learning rate fall linearly to 0, so that a good policy is not lost at the end; "
        "false keeps it constant, as CleanRL does.",
    )
    gamma: float = Field(
        0.99, gt=0, le=1, description="Discount per step, above 0 to 1. Higher values look further ahead."
    )
    first_epsilon: float = Field(1.0, ge=0, le=1, description="Share of random actions at the start, 0 to 1.")
    last_epsilon: float = Field(
        0.05, ge=0, le=1, description="Share of random actions after the exploration phase, 0 to 1."
    )
    exploration: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of training, above 0 to 1, during which the share of random actions falls linearly.",
    )
    grad_clip: float | None = Field(
        None, gt=0, description="Largest gradient norm of a policy, above 0; null does not clip."
    )


_COPIES_OF_DQN = EnvironmentSection(copies=1)


class PpoRecipe(IndependentRecipe):
    """Independent PPO policies."""

    method: Literal["ppo"] = Field("ppo", description="The method: independent PPO policies.")
    ppo: PpoSection = Field(PpoSection(), description="The algorithm.")


class DqnRecipe(IndependentRecipe):
    """Independent DQN policies."""

    method: Literal["dqn"] = Field("dqn", description="The method: independent DQN policies.")
    env: EnvironmentSection = Field(_COPIES_OF_DQN, description="The environment.")
    dqn: DqnSection = Field(DqnSection(), description="The algorithm.")


class OpdDaRecipe(OpdRecipe):
    """A group of PPO policies that teach each other."""

    method: Literal["opd-da"] = Field("opd-da", description="The method: OPD-DA on PPO.")
    ppo: PpoSection = Field(PpoSection(), description="The algorithm.")


class OpdDaDqnRecipe(OpdRecipe):
    """A group of DQN policies that teach each other."""

    method: Literal["opd-da-dqn"] = Field("opd-da-dqn", description="The method: OPD-DA on DQN.")
    opd: OpdDqnSection = Field(OpdDqnSection(), description="How policies teach each other.")
    env: EnvironmentSection = Field(_COPIES_OF_DQN, description="The environment.")
    dqn: DqnSection = Field(DqnSection(), description="The algorithm.")
