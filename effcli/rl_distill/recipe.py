"""The settings of `effcli rl-distill`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from effcli.core.recipe import Recipe, Section

Size = Literal["small", "normal", "large"]


class EnvironmentSection(Section):
    """Where policies act. A step is one action of one environment; an Atari step is four frames."""

    id: str = Field(
        "CartPole-v1", description="A gymnasium id, MinAtar/NAME-v1, ALE/NAME-v5, or module:function."
    )
    copies: int = Field(8, ge=1, description="Environments of each policy, side by side.")
    workers: int = Field(
        0,
        ge=0,
        description="0: one after another; else in a process each, or in this many threads for Atari.",
    )
    clip_rewards: bool = Field(
        False, description="Learn from the sign of rewards; returns are always those of the game."
    )


class OpdSection(Section):
    """Online policy distillation with decision attention (section 3 of the paper; what is not in it, inferred)."""

    targets: Literal["attention", "mean", "none"] = Field(
        "attention", description="How peers are weighted: decision attention, all alike, or not at all."
    )
    decision_weight: float = Field(0.1, ge=0, description="lambda_d: of the distance from peers' decisions.")
    feature_weight: float = Field(0.01, ge=0, description="lambda_f: of the distance from peers' features.")
    temperature: float = Field(1.0, gt=0, description="tau of the decision loss; 3 in OKDDip.")
    ramp: float = Field(
        0.27,
        ge=0,
        le=1,
        description="Share of the steps in which the weights rise to their full size; 0: none.",
    )
    aggregate: Literal["logits", "probs"] = Field(
        "logits", description="What is averaged over peers: logits, as OKDDip, or probabilities."
    )
    q_loss: Literal["mse", "kl"] = Field("mse", description="DQN's decision loss.")
    q_centre: bool = Field(
        False, description="Take each policy's mean off its Q-values first, as their scales differ (ours)."
    )
    attention_dim: int = Field(16, ge=1, description="d: of queries and keys; 64 for images.")
    attention_scale: Literal["sqrt", "none"] = Field(
        "sqrt", description="Divide by sqrt(d), or not, as OKDDip."
    )
    attention_self: Literal["exclude", "include"] = Field(
        "exclude", description="Whether a policy may attend to itself."
    )
    attention_input: Literal["feature", "decision"] = Field(
        "feature", description="What queries and keys are made from; decision where sizes differ."
    )
    attention_train: Literal["target", "none"] = Field(
        "target", description="Attention learns through the targets, or stays as drawn at random."
    )
    detach: Literal["peers", "none"] = Field(
        "peers",
        description="none: targets are computed anew with gradient, and push peers, too, as OKDDip's.",
    )
    value_weight: float = Field(
        0.0, ge=0, description="Add this times each peer's standardised recent return to its weight (ours)."
    )
    only_better: bool = Field(
        False,
        description="PPO: imitate only where the own advantage is negative (ours, after Dual Policy Distillation).",
    )


class EvalSection(Section):
    """How the result is measured."""

    episodes: int = Field(
        20, ge=0, description="Games of each policy at the end, with its most likely actions."
    )
    window: int = Field(100, ge=1, description="Last episodes of the training that make a return.")


class RlDistillRecipe(Recipe):
    """What the recipes of both algorithms have."""

    task: Literal["rl-distill"] = Field("rl-distill", description="The command this recipe is for.")
    env: EnvironmentSection = Field(EnvironmentSection(), description="The environment.")
    steps: int = Field(100_000, ge=1, description="Environment steps of each policy.")
    policies: tuple[Size, ...] = Field(
        ("normal", "normal", "normal"), min_length=1, description="The group: a size each."
    )
    opd: OpdSection = Field(OpdSection(), description="How policies teach each other.")
    compare: tuple[Literal["independent", "mean"], ...] = Field(
        (), description="Also train these groups with the same seeds, to compare with."
    )
    eval: EvalSection = Field(EvalSection(), description="Measuring.")

    @property
    def is_mixed(self) -> bool:
        """Whether sizes differ."""
        return len(set(self.policies)) > 1

    @model_validator(mode="after")
    def _features_have_one_size(self) -> RlDistillRecipe:
        if self.is_mixed and self.opd.attention_input == "feature" and self.opd.targets == "attention":
            raise ValueError("opd.attention_input: sizes differ, so attention needs decision")
        return self


class PpoSection(Section):
    """Proximal policy optimisation, with the values of CleanRL."""

    rollout: int = Field(128, ge=2, description="Steps of each environment between updates.")
    epochs: int = Field(4, ge=1, description="Passes over a rollout.")
    minibatches: int = Field(4, ge=1, description="Parts of a rollout.")
    learning_rate: float = Field(2.5e-4, gt=0, description="Adam's; it falls to 0 on a line.")
    gamma: float = Field(0.99, gt=0, le=1, description="Discount.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantages.")
    clip: float = Field(0.2, gt=0, description="Largest change of an action's probability; 0.1 for Atari.")
    clip_values: bool = Field(True, description="Clip the change of values, too.")
    entropy_weight: float = Field(0.01, ge=0, description="Of the entropy bonus.")
    value_weight: float = Field(0.5, ge=0, description="Of the value loss.")
    grad_clip: float = Field(0.5, gt=0, description="Largest norm of the gradient.")


class PpoRecipe(RlDistillRecipe):
    """A group of PPO policies."""

    method: Literal["ppo"] = Field("ppo", description="The method.")
    ppo: PpoSection = Field(PpoSection(), description="The algorithm.")


class DqnSection(Section):
    """Deep Q-learning, with the values of CleanRL."""

    replay: int = Field(10_000, ge=100, description="Transitions that are kept; 100 000 and more for Atari.")
    batch_size: int = Field(128, ge=1, description="Transitions a gradient step; 32 for Atari.")
    learning_starts: int = Field(
        10_000, ge=1, description="Environment steps before the first gradient step."
    )
    train_every: int = Field(10, ge=1, description="Environment steps between gradient steps; 4 for Atari.")
    target_every: int = Field(
        500, ge=1, description="Environment steps between copies to the target network."
    )
    learning_rate: float = Field(2.5e-4, gt=0, description="Adam's.")
    anneal: bool = Field(
        True, description="It falls to 0 on a line: else a good policy may be lost again at the end."
    )
    gamma: float = Field(0.99, gt=0, le=1, description="Discount.")
    first_epsilon: float = Field(1.0, ge=0, le=1, description="Share of random actions at first.")
    last_epsilon: float = Field(0.05, ge=0, le=1, description="And later.")
    exploration: float = Field(0.5, gt=0, le=1, description="Share of the steps in which it falls on a line.")
    grad_clip: float | None = Field(None, gt=0, description="Largest norm of the gradient; null: any.")


class DqnRecipe(RlDistillRecipe):
    """A group of DQN policies."""

    method: Literal["dqn"] = Field("dqn", description="The method.")
    env: EnvironmentSection = Field(EnvironmentSection(copies=1), description="The environment.")
    dqn: DqnSection = Field(DqnSection(), description="The algorithm.")
