"""An operator of `torch.ops.keelback`: how a call of it reaches the kernels, and its gradients.

Inside, every operand has a leading axis of replicas, and row i of replica r meets the parameters of
replica r. `vmap` puts its axis there without copying: an operand that is not mapped is repeated
with stride zero. Many small models with stacked parameters thus run as one call.

A call takes one of three ways. Where no transform, mode or wrapper is there to see it, the kernels
are called from a plain `torch.autograd.Function`: on small inputs the way through PyTorch's
dispatcher and its autograd formula takes as long as the kernels. For `torch.compile` a call is one
node of its graph, `<name>_call`, by which it comes here again. Everything else goes through the
operator that is registered with `torch.library`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from keelback.compiled.backends import Backend, Prepared
from keelback.compiled.guards import none_fit
from keelback.compiled.layouts import signature_of
from keelback.compiled.replicas import VmapInfo, fold, one_replica, unfold
from keelback.compiled.sources import SOURCES
from keelback.compiled.watchers import (
    has_tangent,
    inside_transform,
    runs_eagerly,
)
from keelback.errors import InputError

_library = torch.library.Library("keelback", "FRAGMENT")
#: Of the options of a call, whose last is whether to keep what the backward pass wants.
Fake = Callable[..., tuple[Tensor, ...]]


class Planned:
    """A call that is prepared, and its options.

    `fits` tells whether tensors are like its operands, those that are present, in what it was
    prepared by and in whether they require gradients.
    """

    def __init__(
        self,
        call: Prepared,
        operands: Sequence[Tensor | None],
        options: tuple[Any, ...],
        fits: Callable[..., bool] = none_fit,
    ) -> None:
        self.call, self.options, self.fits = call, options, fits
        self.requires_grad = any(x is not None and x.requires_grad for x in operands)


class Operator:
    """An operator that is differentiable once, with kernels for several devices.

    Args:
        name: Its name in `torch.ops.keelback`; its backward pass is `<name>_backward` there, and
            a whole call `<name>_call`.
        differentiable: The operands that have gradients, `?` after those that may be absent.
        others: The operands that have none.
        options: Names of truth values, or of numbers, written `float <name>`.
        outputs: What it returns.
        kept: What the backward pass wants from the forward pass, if anything.
        backends: By kind of device.
        fake: From operands, options and whether to keep, the shapes of outputs and of what is kept.
    """

    def __init__(
        self,
        name: str,
        *,
        differentiable: Sequence[str],
        others: Sequence[str] = (),
        options: Sequence[str] = (),
        outputs: Sequence[str],
        kept: Sequence[str] = (),
        backends: Mapping[str, Backend],
        fake: Fake,
    ) -> None:
        self.name, self.backends = name, backends
        self._inputs = len(differentiable) + len(others)
        self._differentiable, self._outputs = len(differentiable), len(outputs)
        self._options, self._kept = len(options), len(kept)
        operands = [_declared(one) for one in (*differentiable, *others)]
        flags = [one if " " in one else f"bool {one}" for one in options]
        self._call = (
            [*operands, *flags, "str? backend", "str code"],
            [f"Tensor {one}" for one in outputs],
        )
        keep = ["bool keep"] if kept else []
        results = [f"Tensor {one}" for one in (*outputs, *kept)]
        _define(name, [*operands, *flags, *keep], results)
        given = [f"Tensor? d{one}" for one in outputs] + [f"Tensor {one}" for one in kept]
        gradients = [f"Tensor d{one.rstrip('?')}" for one in differentiable]
        _define(f"{name}_backward", [*given, *operands, *flags], gradients)
        for device, backend in backends.items():
            forward, backward = self._implementations(backend)
            _library.impl(name, forward, device.upper())
            _library.impl(f"{name}_backward", backward, device.upper())
        self._register(fake)

    def define_call(self, call: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
        """An operator that is a whole call with all that is checked and converted before it.

        `call` takes the operands, the options and the name of a backend. A compiler has one node
        for it: it does not follow the code around the kernels, nor look for changes there. What it
        made of a graph it may keep on disk, so that the node also names the code.
        """

        def called(*arguments: Any) -> Any:
            operands, options = self._split(arguments)
            try:  # Where a graph broke, a compiler would follow this code too, and come back here.
                by_python = torch.compiler.disable(call)
                return _one_or_all(by_python(operands, options, arguments[-2]))
            except InputError as error:
                raise _UnfitError(*error.args) from error

        name = f"{self.name}_call"
        _define(name, *self._call)
        _library.impl(name, called, "CompositeImplicitAutograd")
        defined: Callable[..., Any] = getattr(torch.ops.keelback, name)
        return lambda *arguments: _all_of(defined(*arguments, SOURCES))

    def _split(self, arguments: Sequence[Any]) -> tuple[Sequence[Tensor | None], tuple[Any, ...]]:
        """The operands and options at the head of a call's arguments."""
        return arguments[: self._inputs], tuple(
            arguments[self._inputs : self._inputs + self._options]
        )

    def _implementations(self, backend: Backend) -> tuple[Callable[..., Any], Callable[..., Any]]:
        behind = self._outputs + self._kept

        def forward(*arguments: Any) -> Any:
            operands, options = self._split(arguments)
            call = backend.prepare(signature_of(operands), options)
            found = call.forward(operands, bool(self._kept) and arguments[-1])
            return _one_or_all(_as_declared(found, operands[0]))

        def backward(*arguments: Any) -> Any:
            gradients, kept = arguments[: self._outputs], arguments[self._outputs : behind]
            operands, options = self._split(arguments[behind:])
            call = backend.prepare(signature_of(operands), options)
            present = [None if x.numel() == 0 else x for x in kept]
            return tuple(_as_declared(call.backward(gradients, present, operands), operands[0]))

        return forward, backward

    def _register(self, fake: Fake) -> None:
        """Shapes, autograd and `vmap` of both operators."""
        behind = self._outputs + self._kept

        def fake_backward(*arguments: Any) -> Any:
            operands = arguments[behind : behind + self._differentiable]
            return tuple(
                _nothing_like(operands[0]) if x is None else x.new_empty(x.shape) for x in operands
            )

        forward = f"keelback::{self.name}"
        backward = f"{forward}_backward"
        torch.library.register_fake(forward, lambda *a: _one_or_all(fake(*a)), lib=_library)
        torch.library.register_fake(backward, fake_backward, lib=_library)
        self._forward_function, self._backward_function = _functions(self)
        torch.library.register_autograd(
            forward,
            self._forward_function.backward,
            setup_context=self._forward_function.setup_context,
            lib=_library,
        )
        torch.library.register_autograd(backward, self._backward_function.backward, lib=_library)
        torch.library.register_vmap(forward, self._forward_function.vmap, lib=_library)
        torch.library.register_vmap(backward, self._backward_function.vmap, lib=_library)

    def __call__(self, operands: Sequence[Tensor | None], *options: Any) -> tuple[Tensor, ...]:
        """The outputs for operands in dtypes that kernels take, without the axis of replicas."""
        if runs_eagerly(*operands):
            planned = Planned(self.prepared(operands, *options), operands, options)
            return self.run(planned, operands)
        if has_tangent(*operands):
            raise NotImplementedError(
                f"the compiled {self.name} has no derivatives in forward mode; for these call "
                f"{self.name}(..., backend='reference')"
            )
        if torch.onnx.is_in_onnx_export():
            raise InputError(
                f"ONNX has no {self.name}: with backend='reference' it exports as plain "
                "operations, for the length of the example alone"
            )
        # A traced graph is for any use, with gradients and without.
        kept = torch.is_grad_enabled() or (
            not is_compiling() and torch._C._get_tracing_state() is not None
        )
        keep = (kept,) if self._kept else ()
        results = self.dispatch(*one_replica(*operands), *options, *keep)
        return tuple(x.squeeze(0) for x in results[: self._outputs])

    def prepared(self, operands: Sequence[Tensor | None], *options: Any) -> Prepared:
        """The call over operands like these, on their device."""
        device = operands[0].device.type  # type: ignore[union-attr]
        return self.backends[device].prepare(signature_of(operands), options)

    def run(self, planned: "Planned", operands: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """The outputs of a call that fits, where nobody but autograd is there to see it."""
        if planned.requires_grad and torch.is_grad_enabled():
            return _apply(self, planned, *operands)
        return planned.call.forward(operands, False)[: self._outputs]

    def dispatch(self, *arguments: Any) -> tuple[Tensor, ...]:
        """Call the registered operator, in the way that the caller's transforms need."""
        if inside_transform():
            found = self._forward_function.apply(*arguments)
        else:
            found = getattr(torch.ops.keelback, self.name)(*arguments)
        return _all_of(found)

    def dispatch_gradients(self, *arguments: Any) -> tuple[Tensor, ...]:
        """Call the registered backward operator in the same way."""
        if inside_transform():
            found = self._backward_function.apply(*arguments)
        else:
            found = getattr(torch.ops.keelback, f"{self.name}_backward")(*arguments)
        return _all_of(found)

    def eager_gradients(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
        planned: "Planned",
    ) -> Sequence[Tensor | None]:
        """The backward pass of a call by `run`; it may be watched though that was not.

        Saved tensors may have become others by hooks.
        """
        options = planned.options
        if not torch.is_grad_enabled() and runs_eagerly(*gradients):
            if planned.fits(*[x for x in operands if x is not None]):
                return planned.call.backward(gradients, kept, operands)
            if runs_eagerly(*operands):
                return self.prepared(operands, *options).backward(gradients, kept, operands)
        of_one = one_replica(*operands)
        present = [_nothing_like(of_one[0]) if x is None else x for x in one_replica(*kept)]
        found = self.dispatch_gradients(*one_replica(*gradients), *present, *of_one, *options)
        return [
            None if x is None else gradient.squeeze(0)
            for x, gradient in zip(operands[: self._differentiable], found, strict=True)
        ]


class _UnfitError(InputError, NotImplementedError):
    """An `InputError` on which a compiler leaves the call to Python, which raises it as usual."""


def _declared(operand: str) -> str:
    return f"Tensor? {operand[:-1]}" if operand.endswith("?") else f"Tensor {operand}"


def _define(name: str, arguments: Sequence[str], results: Sequence[str]) -> None:
    schema = f"{name}({', '.join(arguments)}) -> ({', '.join(results)})"
    _library.define(schema, tags=torch.Tag.pt2_compliant_tag)


def _nothing_like(x: Any) -> Tensor:
    """Stands for an absent tensor where an operator must return one; it has replicas as x has."""
    return x.new_empty((x.shape[0], 0))


def _as_declared(results: Iterable[Tensor | None], first: Any) -> Iterator[Tensor]:
    """Results as `fake` has them: contiguous, from the start of a memory that no two share.

    What compilers make of an operator relies on it; kernels may write several results into one.
    """
    seen = set()
    for x in results:
        if x is None:
            yield _nothing_like(first)
            continue
        memory = x.untyped_storage().data_ptr()
        if x.numel() and (x.storage_offset() or memory in seen or not x.is_contiguous()):
            x = x.clone(memory_format=torch.contiguous_format)
        seen.add(memory)
        yield x


def _one_or_all(results: Any) -> Any:
    results = tuple(results)
    return results[0] if len(results) == 1 else results


def _all_of(result: Any) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


class _Eager(torch.autograd.Function):
    """The kernels without the detour through PyTorch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, planned: Planned, *operands: Any) -> Any:
        results = planned.call.forward(operands, True)
        outputs = operator._outputs
        ctx.save_for_backward(*results[outputs:], *operands)
        ctx.operator, ctx.planned = operator, planned
        ctx.set_materialize_grads(False)
        return results[:outputs]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        operator, saved = ctx.operator, ctx.saved_tensors
        kept, operands = saved[: operator._kept], saved[operator._kept :]
        if all(x is None for x in gradients):
            return (None,) * (2 + len(operands))
        found = operator.eager_gradients(gradients, kept, operands, ctx.planned)
        return (None, None, *found, *(None,) * (len(operands) - len(found)))


#: `Function.apply` first looks for transforms and their wrappers, which `runs_eagerly` excludes.
_apply: Any = super(torch.autograd.Function, _Eager).apply


def _functions(operator: Operator) -> tuple[Any, Any]:
    """The operators as functions of autograd, for callers inside a transform of `torch.func`.

    Operators with a formula from `torch.library.register_autograd` are not differentiable there;
    functions of this kind are.
    """
    outputs, kept, inputs = operator._outputs, operator._kept, operator._inputs
    differentiable = operator._differentiable
    behind = outputs + kept

    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            return getattr(torch.ops.keelback, operator.name)(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            operands, ctx.options = operator._split(inputs)
            of_forward = _all_of(output)[outputs:]
            ctx.mark_non_differentiable(*of_forward)
            ctx.save_for_backward(*of_forward, *operands)
            ctx.behind = len(inputs) - len(operands)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
            saved = ctx.saved_tensors
            given, operands = gradients[:outputs], saved[kept:]
            if all(x is None for x in given):
                return (None,) * (inputs + ctx.behind)
            found = operator.dispatch_gradients(*given, *saved, *ctx.options)
            of_operands = [
                None if x is None else gradient
                for x, gradient in zip(operands[:differentiable], found, strict=True)
            ]
            return (*of_operands, *(None,) * (inputs - differentiable + ctx.behind))

        @staticmethod
        def vmap(info: VmapInfo, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
            size = info.batch_size
            found = operator.dispatch(
                *(fold(x, dim, size) for x, dim in zip(arguments, in_dims, strict=True))
            )
            return _one_or_all(unfold(x, size) for x in found), _one_or_all([0] * len(found))

    class Backward(torch.autograd.Function):
        """It has no derivative of its own."""

        @staticmethod
        def forward(*arguments: Any) -> Any:
            return getattr(torch.ops.keelback, f"{operator.name}_backward")(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            raise NotImplementedError(
                f"the compiled {operator.name} has first derivatives only; for second derivatives "
                f"call {operator.name}(..., backend='reference')"
            )

        @staticmethod
        def vmap(info: VmapInfo, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
            size = info.batch_size
            found = operator.dispatch_gradients(
                *(fold(x, dim, size) for x, dim in zip(arguments, in_dims, strict=True))
            )
            present = [x is not None for x in arguments[behind:][:differentiable]]
            return (
                tuple(
                    unfold(x, size) if here else x for x, here in zip(found, present, strict=True)
                ),
                tuple(0 if here else None for here in present),
            )

    return Forward, Backward
