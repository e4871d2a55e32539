"""Linear Gaussian steps and their products: what is carried out of some steps, given what is carried in.

A step, and any number of them one after the other, is an `Element`: c' | c ~ N(A c + b, C), times
exp(constant + linear . c - c' precision c / 2). Elements multiply associatively (Sarkka & Garcia-Fernandez
2021, doi:10.1109/TAC.2020.2976316, here with the constant, and with precisions in place of their
condition), so long sequences are cut into blocks whose steps run side by side. Nothing is inverted but
identity + C precision, whose eigenvalues are one or more: variances of zero, improper and precise
observations do no harm.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SHORT = 32  # steps, or lanes, from which on blocks pay
FEW = 3  # numbers: smaller matrices are multiplied entry by entry


class Message(NamedTuple):
    """exp(constant + linear . c - c' precision c / 2): what later steps tell about what is carried
    into them. (*lanes), (*lanes, n), (*lanes, n, n); lanes of size one where nothing varies."""

    linear: jax.Array
    precision: jax.Array
    constant: jax.Array


class Element(NamedTuple):
    """Some steps: `slope` A, `mean` b, `covariance` C, and the message about what is carried in. The
    steps, or one, lead the lanes where there are several."""

    slope: jax.Array
    mean: jax.Array
    covariance: jax.Array
    message: Message


def product(matrix: jax.Array, other: jax.Array) -> jax.Array:
    """The matrix product of batches."""
    if max(*matrix.shape[-2:], other.shape[-1]) <= FEW:
        return (matrix[..., :, :, None] * other[..., None, :, :]).sum(-2)
    return matrix @ other


def applied(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """A batch of matrices times vectors."""
    return (matrix * vector[..., None, :]).sum(-1)


def turned(matrix: jax.Array) -> jax.Array:
    """The transpose."""
    return jnp.swapaxes(matrix, -1, -2)


def symmetric(matrix: jax.Array) -> jax.Array:
    """Without what rounding leaves of asymmetry."""
    return (matrix + turned(matrix)) / 2


@jax.custom_jvp
def inverse_and_volume(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse and the log determinant, which is positive. Derivatives are of the rules, not of
    the elimination."""
    if matrix.shape[-1] == 1:
        return 1 / matrix, jnp.log(matrix[..., 0, 0])
    if matrix.shape[-1] <= FEW:
        return _eliminated(matrix)
    eye = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    lu, pivots = jax.scipy.linalg.lu_factor(matrix)
    volume = jnp.log(jnp.abs(jnp.diagonal(lu, axis1=-2, axis2=-1))).sum(-1)
    return jax.scipy.linalg.lu_solve((lu, pivots), eye), volume


def _eliminated(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same for small matrices, all of a batch side by side: Gauss-Jordan with the largest pivot."""
    size = matrix.shape[-1]
    eye = jnp.broadcast_to(jnp.eye(size, dtype=matrix.dtype), matrix.shape)
    both = jnp.concatenate([matrix, eye], -1)
    rows, volume = (
        [both[..., i, :] for i in range(size)],
        jnp.zeros(matrix.shape[:-2], matrix.dtype),
    )
    for i in range(size):
        for j in range(i + 1, size):
            swap = (jnp.abs(rows[j][..., i]) > jnp.abs(rows[i][..., i]))[..., None]
            rows[i], rows[j] = jnp.where(swap, rows[j], rows[i]), jnp.where(swap, rows[i], rows[j])
        pivot = rows[i][..., i : i + 1]
        volume = volume + jnp.log(jnp.abs(pivot[..., 0]))
        rows[i] = rows[i] / pivot
        rows = [r if k == i else r - r[..., i : i + 1] * rows[i] for k, r in enumerate(rows)]
    return jnp.stack([r[..., size:] for r in rows], -2), volume


@inverse_and_volume.defjvp
def _inverse_jvp(primals: tuple, tangents: tuple) -> tuple:
    (matrix,), (change,) = primals, tangents
    inverse, volume = inverse_and_volume(matrix)
    moved = -product(product(inverse, change), inverse)
    return (inverse, volume), (moved, (turned(inverse) * change).sum((-1, -2)))


def _met(element: Element, later: Message) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(identity + C precision)^-1, its log determinant, and what is left of the linear part."""
    mixed = product(element.covariance, later.precision)
    inverse, volume = inverse_and_volume(mixed + jnp.eye(mixed.shape[-1], dtype=mixed.dtype))
    return inverse, volume, later.linear - applied(later.precision, element.mean)


def before(element: Element, later: Message) -> Message:
    """What the steps of an element and those after them tell about what is carried in."""
    inverse, volume, left = _met(element, later)
    pulled = product(turned(element.slope), turned(inverse))
    precision = product(product(pulled, later.precision), element.slope)
    spread = applied(product(inverse, element.covariance), left)
    constant = (
        element.message.constant
        + later.constant
        - volume / 2
        + (later.linear * element.mean).sum(-1)
        - (applied(later.precision, element.mean) * element.mean).sum(-1) / 2
        + (left * spread).sum(-1) / 2
    )
    return Message(
        applied(pulled, left) + element.message.linear,
        symmetric(precision) + element.message.precision,
        constant,
    )


def joined(first: Element, second: Element) -> Element:
    """Two elements one after the other."""
    inverse = _met(first, second.message)[0]
    onward = product(second.slope, inverse)
    seen = first.mean + applied(first.covariance, second.message.linear)
    covariance = product(product(onward, first.covariance), turned(second.slope))
    return Element(
        product(onward, first.slope),
        applied(onward, seen) + second.mean,
        symmetric(covariance) + second.covariance,
        before(first, second.message),
    )


def all_before(elements: Element, steps: int, lanes: tuple[int, ...]) -> Message:
    """What all steps tell about what is carried into the first, nothing being known after the last.

    Every part of `elements` leads with `steps`, or with one where it is the same at every step.
    """
    size = elements.mean.shape[-1]
    nothing = Message(jnp.zeros((1, size)), jnp.zeros((1, size, size)), jnp.zeros(1))
    nothing = jax.tree.map(lambda a: a.reshape((1,) * len(lanes) + a.shape[1:]), nothing)
    if steps < 2 * SHORT or int(np.prod(lanes)) >= SHORT:
        return _backward(elements, steps, nothing)
    length = int(np.ceil(np.sqrt(steps)))
    blocks = steps // length
    whole = blocks * length
    head = jax.tree.map(lambda a: a if len(a) == 1 else a[:whole], elements)
    tail = jax.tree.map(lambda a: a if len(a) == 1 else a[whole:], elements)
    later = _backward(tail, steps - whole, nothing)
    return _backward(_of_blocks(head, blocks, length), blocks, later)


def all_prefixes(elements: Element, steps: int) -> Message:
    """What the first 1, 2, ... steps tell about what is carried into the first, (steps, *lanes, ...)."""
    varying, fixed, treedef = _split(elements, steps)
    first = _merge([a[0] for a in varying], fixed, treedef)
    shapes = jax.eval_shape(joined, first, first)
    start = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), first, shapes)

    def step(sofar: Element, parts: list[jax.Array]) -> tuple[Element, Message]:
        new = joined(sofar, _merge(parts, fixed, treedef))
        return new, new.message

    later = jax.lax.scan(step, start, [a[1:] for a in varying], length=steps - 1)[1]
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start.message, later)


def _of_blocks(elements: Element, blocks: int, length: int) -> Element:
    """The element of every block of `length` steps, the blocks side by side."""

    def cut(a: jax.Array) -> jax.Array:
        if len(a) == 1:
            return a[:, None]
        return jnp.swapaxes(a.reshape(blocks, length, *a.shape[1:]), 0, 1)

    cutted = jax.tree.map(cut, elements)
    first = jax.tree.map(lambda a: a[0], cutted)
    rest = jax.tree.map(lambda a: a if len(a) == 1 else a[1:], cutted)
    varying, fixed, treedef = _split(rest, length - 1)
    shapes = jax.eval_shape(joined, first, first)
    start = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), first, shapes)

    def step(sofar: Element, parts: list[jax.Array]) -> tuple[Element, None]:
        return joined(sofar, _merge(parts, fixed, treedef)), None

    return jax.lax.scan(step, start, varying, length=length - 1)[0]


def _backward(elements: Element, steps: int, later: Message) -> Message:
    """What these steps and those after them tell about what is carried into the first."""
    if steps == 0:
        return later
    varying, fixed, treedef = _split(elements, steps)
    one = _merge([a[0] for a in varying], fixed, treedef)
    shapes = jax.eval_shape(before, one, jax.eval_shape(before, one, later))
    start = jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), later, shapes)

    def step(later: Message, parts: list[jax.Array]) -> tuple[Message, None]:
        return before(_merge(parts, fixed, treedef), later), None

    return jax.lax.scan(step, start, varying, length=steps, reverse=True)[0]


def _split(elements: Element, steps: int) -> tuple[list[jax.Array], list[jax.Array | None], object]:
    """The parts that vary with the step, those that do not (None where they do), and the form."""
    leaves, treedef = jax.tree.flatten(elements)
    alike = [len(a) == 1 and steps != 1 for a in leaves]
    fixed = [a[0] if same else None for a, same in zip(leaves, alike, strict=True)]
    return [a for a, same in zip(leaves, alike, strict=True) if not same], fixed, treedef


def _merge(parts: list[jax.Array], fixed: list[jax.Array | None], treedef: object) -> Element:
    varying = iter(parts)
    leaves = [next(varying) if a is None else a for a in fixed]
    return jax.tree.unflatten(treedef, leaves)  # type: ignore[arg-type]
