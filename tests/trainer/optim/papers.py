"""The update rules in NumPy and float64, written from the papers and without code of the trainer.

Each function takes the settings of a rule, the blocks of one parameter, and its gradients, and returns the parameter
after each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """One parameter: a matrix [outputs, inputs] or a vector.

    Attributes:
        start: Its value before the first step.
        gradients: Its gradient in each step.
        estimates: The estimate of curvature in each step.
        rates: The learning rate of each step.
        decay: The weight decay; 0 for a vector.
        role: Its role.
    """

    start: Array
    gradients: Sequence[Array]
    estimates: Sequence[Array]
    rates: Sequence[float]
    decay: float
    role: str


def _rms(x: Array) -> float:
    return float(np.sqrt((x**2).mean()))


def adamw(rule: Any, case: Case) -> Array:
    """Loshchilov and Hutter 2019, algorithm 2; cautious: Liang et al. 2024; corrected decay: Defazio 2025."""
    p, m, v = case.start.copy(), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(case.gradients, case.rates, strict=True), 1):
        m, v = rule.beta1 * m + (1 - rule.beta1) * g, rule.beta2 * v + (1 - rule.beta2) * g**2
        u = (m / (1 - rule.beta1**t)) / (np.sqrt(v / (1 - rule.beta2**t)) + rule.epsilon)
        if rule.clip_update:
            u = u / max(1.0, _rms(u) / rule.clip_update)
        if rule.cautious:
            mask = u * g > 0
            u = u * mask / max(mask.mean(), 1e-3)
        share = rate / max(case.rates) if rule.corrected_decay and case.role != "head" else 1.0
        p = p - rate * u - rate * share * case.decay * p
    return p


def lion(rule: Any, case: Case) -> Array:
    """Chen et al. 2023, algorithm 2."""
    p, m = case.start.copy(), np.zeros_like(case.start)
    for g, rate in zip(case.gradients, case.rates, strict=True):
        p = p - rate * (np.sign(rule.beta1 * m + (1 - rule.beta1) * g) + case.decay * p)
        m = rule.beta2 * m + (1 - rule.beta2) * g
    return p


def adafactor(rule: Any, case: Case) -> Array:
    """Shazeer and Stern 2018, algorithms 4 (matrices) and 5 (vectors)."""
    p = case.start.copy()
    rows = columns = v = 0.0
    for t, (g, rate) in enumerate(zip(case.gradients, case.rates, strict=True), 1):
        beta = 1 - t**-rule.decay_exponent
        squares = g**2 + rule.epsilon
        if g.ndim == 2:
            rows = beta * rows + (1 - beta) * squares.sum(1)
            columns = beta * columns + (1 - beta) * squares.sum(0)
            v_hat = np.outer(rows, columns) / np.sum(rows)
        else:
            v = beta * v + (1 - beta) * squares
            v_hat = v
        u = g / np.sqrt(v_hat)
        u = u / max(1.0, _rms(u) / rule.clip_update)
        p = p - rate * (max(rule.least_size, _rms(p)) * u + case.decay * p)
    return p


def adopt(rule: Any, case: Case) -> Array:
    """Taniguchi et al. 2024, algorithm 2 with clipping by t ** (1 / 4). The first gradient only makes the second
    moment.
    """
    p, m = case.start.copy(), 0.0
    v = case.gradients[0] ** 2
    for t, (g, rate) in enumerate(zip(case.gradients[1:], case.rates[1:], strict=True), 1):
        scaled = np.clip(g / np.maximum(np.sqrt(v), rule.epsilon), -(t**0.25), t**0.25)
        m = rule.beta1 * m + (1 - rule.beta1) * scaled
        p = p - rate * (m + case.decay * p)
        v = rule.beta2 * v + (1 - rule.beta2) * g**2
    return p


def adam_h(rule: Any, case: Case) -> Array:
    """Wen et al. 2025; AdamW for vectors and embeddings."""
    p, m, v = case.start.copy(), 0.0, 0.0
    size = np.linalg.norm(p)
    for t, (g, rate) in enumerate(zip(case.gradients, case.rates, strict=True), 1):
        m, v = rule.beta1 * m + (1 - rule.beta1) * g, rule.beta2 * v + (1 - rule.beta2) * g**2
        u = (m / (1 - rule.beta1**t)) / (np.sqrt(v / (1 - rule.beta2**t)) + rule.epsilon)
        if case.role in ("matrix", "head"):
            q = p - rule.matrix_rate * rate * size * u / np.linalg.norm(u)
            p = size * q / np.linalg.norm(q)
        else:
            p = p - rate * (u + case.decay * p)
    return p


def adam_mini(rule: Any, case: Case) -> Array:
    """Zhang et al. 2024: a matrix has a second moment for each row (an output, or a token), a vector has one."""
    p, m, v = case.start.copy(), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(case.gradients, case.rates, strict=True), 1):
        squares = (g**2).mean(1, keepdims=True) if g.ndim == 2 else (g**2).mean()
        m, v = rule.beta1 * m + (1 - rule.beta1) * g, rule.beta2 * v + (1 - rule.beta2) * squares
        u = (m / (1 - rule.beta1**t)) / (np.sqrt(v / (1 - rule.beta2**t)) + rule.epsilon)
        p = p - rate * (u + case.decay * p)
    return p


def sophia(rule: Any, case: Case) -> Array:
    """Liu et al. 2023, algorithm 3."""
    gamma = rule.gamma or {"gaussNewton": 0.05, "hutchinson": 0.01}[rule.estimator]
    p, m, h = case.start.copy(), 0.0, 0.0
    for t, (g, estimate, rate) in enumerate(zip(case.gradients, case.estimates, case.rates, strict=True)):
        m = rule.beta1 * m + (1 - rule.beta1) * g
        if t % rule.every_steps == 0:
            h = rule.beta2 * h + (1 - rule.beta2) * estimate
        p = p - rate * (np.clip(m / np.maximum(gamma * h, rule.epsilon), -1, 1) + case.decay * p)
    return p


def mars(rule: Any, cases: Sequence[Case]) -> list[Array]:
    """Yuan et al. 2024, algorithm 2 with the last gradients; the clipped norm is that of all parameters."""
    points = [case.start.copy() for case in cases]
    m, v = [0.0 for _ in cases], [0.0 for _ in cases]
    last: list[Any] = [case.gradients[0] for case in cases]
    for t, rate in enumerate(cases[0].rates, 1):
        now = [case.gradients[t - 1] for case in cases]
        c = [g + rule.gamma * rule.beta1 / (1 - rule.beta1) * (g - old) for g, old in zip(now, last, strict=True)]
        size = max(1.0, np.sqrt(sum((one**2).sum() for one in c)))
        for n, case in enumerate(cases):
            m[n] = rule.beta1 * m[n] + (1 - rule.beta1) * c[n] / size
            v[n] = rule.beta2 * v[n] + (1 - rule.beta2) * (c[n] / size) ** 2
            u = (m[n] / (1 - rule.beta1**t)) / (np.sqrt(v[n] / (1 - rule.beta2**t)) + rule.epsilon)
            points[n] = points[n] - rate * (u + case.decay * points[n])
        last = now
    return points


def _alone(rule: Callable[[Any, Case], Array]) -> Callable[[Any, Sequence[Case]], list[Array]]:
    return lambda settings, cases: [rule(settings, case) for case in cases]


PAPERS: dict[str, Callable[[Any, Sequence[Case]], list[Array]]] = {
    "adamw": _alone(adamw),
    "lion": _alone(lion),
    "adafactor": _alone(adafactor),
    "adopt": _alone(adopt),
    "mars": mars,
    "adamMini": _alone(adam_mini),
    "adamH": _alone(adam_h),
    "sophia": _alone(sophia),
}
"""The reference of each rule: takes its settings and all parameters of a model."""
