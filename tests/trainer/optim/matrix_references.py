"""The papers' algorithms for one matrix at a time, in plain NumPy and float64.

Matrices are [inputs, outputs]; the papers write the transpose. Each class has one method: the next weights from a
gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from halcyon.optim.hidden import POLAR_EXPRESS, QUINTIC

Matrix = Any


def orthogonal(x: Matrix, coefficients: str, iterations: int = 5) -> Matrix:
    """The Newton-Schulz iteration of Jordan et al. 2024, or that of Amsel et al. 2025 with its factors of safety."""
    if x.shape[0] > x.shape[1]:
        return orthogonal(x.T, coefficients, iterations).T
    x = x / (np.linalg.norm(x) * (1.0 if coefficients == "quintic" else 1.01) + 1e-7)
    for number in range(iterations):
        a, b, c = QUINTIC if coefficients == "quintic" else POLAR_EXPRESS[min(number, 7)]
        if coefficients == "polarExpress" and number < 7:
            a, b, c = a / 1.01, b / 1.01**3, c / 1.01**5
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


def scale(shape: tuple[int, int], scaling: str) -> float:
    inputs, outputs = shape
    return max(1.0, outputs / inputs) ** 0.5 if scaling == "spectral" else 0.2 * max(inputs, outputs) ** 0.5


class AdamW:
    """Loshchilov and Hutter 2019."""

    def __init__(self, beta1: float, beta2: float, epsilon: float) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.first: Any = 0.0
        self.second: Any = 0.0
        self.count = 0

    def step(self, weight: Any, gradient: Any, rate: float, decay: float) -> Any:
        self.count += 1
        self.first = self.beta1 * self.first + (1 - self.beta1) * gradient
        self.second = self.beta2 * self.second + (1 - self.beta2) * gradient**2
        first, second = self.first / (1 - self.beta1**self.count), self.second / (1 - self.beta2**self.count)
        return weight - rate * (first / (np.sqrt(second) + self.epsilon) + decay * weight)


class _WithMomentum:
    def __init__(self, spec: Any, shared: Any) -> None:
        self.spec, self.shared = spec, shared
        self.momentum: Any = 0.0

    def orthogonal(self, x: Matrix) -> Matrix:
        return orthogonal(x, self.shared.coefficients, self.shared.iterations)

    def ahead(self, gradient: Matrix, *, nesterov: bool = True) -> Matrix:
        decay = self.spec.momentum
        self.momentum = decay * self.momentum + (1 - decay) * gradient
        return (1 - decay) * gradient + decay * self.momentum if nesterov else self.momentum

    def moved(self, weight: Matrix, update: Matrix, rate: float, decay: float) -> Matrix:
        update = update * scale(weight.shape, self.shared.scaling)
        decayed = np.where(update * weight >= 0, weight, 0) if self.shared.cautious else weight
        return weight - rate * (update + decay * decayed)


class Muon(_WithMomentum):
    """Jordan et al. 2024; Liu et al. 2025."""

    def step(self, weight: Matrix, gradient: Matrix, rate: float, decay: float) -> Matrix:
        update = self.orthogonal(self.ahead(gradient, nesterov=self.spec.nesterov))
        return self.moved(weight, update, rate, decay)


class NorMuon(_WithMomentum):
    """Li et al. 2025."""

    squares: Any = 0.0

    def step(self, weight: Matrix, gradient: Matrix, rate: float, decay: float) -> Matrix:
        update = self.orthogonal(self.ahead(gradient))
        self.squares = self.spec.beta2 * self.squares + (1 - self.spec.beta2) * np.mean(update**2, axis=0)
        equalized = update / (np.sqrt(self.squares) + 1e-10)
        return self.moved(weight, equalized * np.linalg.norm(update) / np.linalg.norm(equalized), rate, decay)


class MuonH(_WithMomentum):
    """Wen et al. 2025."""

    def step(self, weight: Matrix, gradient: Matrix, rate: float, decay: float) -> Matrix:
        del decay
        update, radius = self.orthogonal(self.ahead(gradient)), np.linalg.norm(weight)
        moved = weight - rate * self.spec.matrix_rate * radius * update / np.linalg.norm(update)
        return moved * radius / np.linalg.norm(moved)


class _Bases:
    """The means and eigenbases of Shampoo."""

    def __init__(self, decay: float, every: int) -> None:
        self.decay, self.every = decay, every
        self.left: Any = 0.0
        self.right: Any = 0.0
        self.bases: Any = None
        self.count = 0

    def follow(self, gradient: Matrix) -> None:
        self.left = self.decay * self.left + (1 - self.decay) * gradient @ gradient.T
        self.right = self.decay * self.right + (1 - self.decay) * gradient.T @ gradient
        if self.bases is None:
            self.bases = [np.linalg.eigh(mean)[1][:, ::-1] for mean in (self.left, self.right)]
        elif self.count % self.every == 0:
            self.bases = [
                np.linalg.qr(mean @ basis)[0] for mean, basis in zip((self.left, self.right), self.bases, strict=True)
            ]
        self.count += 1


class Soap(_Bases):
    """Vyas et al. 2024, algorithm 3."""

    def __init__(self, spec: Any, shared: Any) -> None:
        super().__init__(spec.beta2, spec.every_steps)
        self.spec, self.shared = spec, shared
        self.first: Any = 0.0
        self.second: Any = 0.0
        self.updates = 0

    def step(self, weight: Matrix, gradient: Matrix, rate: float, decay: float) -> Matrix:
        if self.bases is not None:
            left, right = self.bases
            self.updates += 1
            self.first = self.spec.beta1 * self.first + (1 - self.spec.beta1) * gradient
            self.second = self.spec.beta2 * self.second + (1 - self.spec.beta2) * (left.T @ gradient @ right) ** 2
            mean = left.T @ self.first @ right / (1 - self.spec.beta1**self.updates)
            direction = left @ (mean / (np.sqrt(self.second / (1 - self.spec.beta2**self.updates)) + 1e-8)) @ right.T
            weight = weight - rate * (direction + decay * weight)
        self.follow(gradient)
        return weight


class SoapMuon(_WithMomentum):
    """Vyas et al. 2025."""

    def __init__(self, spec: Any, shared: Any) -> None:
        super().__init__(spec, shared)
        self.basis = _Bases(spec.beta2, spec.every_steps)
        self.second: Any = 0.0

    def step(self, weight: Matrix, gradient: Matrix, rate: float, decay: float) -> Matrix:
        update = self.ahead(gradient)
        if self.basis.bases is not None:
            left, right = self.basis.bases
            turned = left.T @ update @ right
            self.second = self.spec.beta2 * self.second + (1 - self.spec.beta2) * turned**2
            update = left @ (turned / np.sqrt(self.second)) @ right.T
        self.basis.follow(gradient)
        return self.moved(weight, self.orthogonal(update), rate, decay)


class Kron(_WithMomentum):
    """Li 2024: the equivariant gradient step of the triangular factors, with the author's scale, balance, damping and
    clipping.
    """

    left: Any = None
    right: Any = None
    count = 0

    def step(self, weight: Matrix, gradient: Matrix, rate: float, decay: float, noise: Matrix) -> Matrix:
        self.ahead(gradient)
        self.count += 1
        mean = self.momentum / (1 - self.spec.momentum**self.count)
        if self.left is None:
            scale = np.mean(mean**4) ** (-1 / 16)
            self.left, self.right = (np.eye(size) * scale for size in mean.shape)
        balance = np.sqrt(np.abs(self.right).max() / np.abs(self.left).max())
        self.left, self.right = self.left * balance, self.right / balance
        a = self.left @ (mean + np.sqrt(np.finfo(np.float32).eps) * np.abs(mean).mean() * noise) @ self.right.T
        b = np.linalg.inv(self.left).T @ noise @ np.linalg.inv(self.right)
        factors = []
        for factor, towards, away in ((self.left, a @ a.T, b @ b.T), (self.right, a.T @ a, b.T @ b)):
            both = towards + away
            vector = both @ both[:, np.argmax((both**2).sum(0))]
            size = np.linalg.norm(both @ (vector / np.linalg.norm(vector)))
            factors.append(factor - self.spec.factor_rate / size * np.triu(towards - away) @ factor)
        self.left, self.right = factors
        direction = self.left.T @ self.left @ mean @ self.right.T @ self.right
        direction = direction / max(1.0, np.sqrt(np.mean(direction**2)) / 1.1)
        return weight - rate * self.spec.matrix_rate * (direction + decay * weight)


class Scion(_WithMomentum):
    """Pethick et al. 2025, algorithm 2, with the norm of one kind of parameter: ``spectral``, ``sign`` or ``rms``."""

    def __init__(self, spec: Any, shared: Any, norm: str, decay: float) -> None:
        super().__init__(spec, shared)
        self.norm = norm
        self.decay = decay
        """Of the weights, times the rate: 1 in the constrained form, which keeps them in the ball."""

    def step(self, weight: Any, gradient: Any, rate: float, width: int) -> Any:
        self.ahead(gradient)
        match self.norm:
            case "spectral":
                inputs, outputs = weight.shape
                edge = self.spec.radius * np.sqrt(outputs / inputs) * self.orthogonal(self.momentum)
            case "sign":
                edge = self.spec.outer_radius / width * np.sign(self.momentum)
            case _:
                edge = self.spec.radius * self.momentum / np.sqrt(np.mean(self.momentum**2))
        rate = rate * self.spec.matrix_rate
        return (1 - rate * self.decay) * weight - rate * edge
