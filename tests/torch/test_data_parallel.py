"""Networks under DistributedDataParallel and fully_shard, against one process with whole batches.

The steps of Adam and momentum depend on all earlier gradients. Equal parameters after some steps
therefore mean equal gradients in each step.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import convkern
from processes import Processes

STEPS, BATCH = 5, 12  # 2, 3 and 4 processes divide the batch
EXACT = {"rtol": 1e-9, "atol": 1e-11}  # float64; Adam divides by small numbers


class Net(nn.Module):
    """Has plain, depthwise, grouped and strided layers. `extra` is used on demand only."""

    def __init__(self) -> None:
        super().__init__()
        conv = convkern.Conv2d
        self.features = nn.Sequential(
            conv(2, 8, 3, padding=1, activation="relu"),
            conv(8, 8, 5, padding=2, groups=8),
            nn.GELU(),
            conv(8, 12, 3, stride=2, padding=1, groups=2),
            nn.GELU(),
        )
        self.extra = conv(12, 12, 1)
        self.head = nn.Linear(12 * 25, 3)

    def forward(self, x: Tensor, extra: bool = False) -> Tensor:
        x = self.features(x)
        x = self.extra(x) if extra else x
        scores: Tensor = self.head(x.flatten(1))
        return scores


def network() -> Net:
    torch.manual_seed(5)
    return Net().double()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(6)
    return [
        (
            torch.randn((BATCH, 2, 9, 9), generator=generator, dtype=torch.float64),
            torch.randint(3, (BATCH,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def mine(batch: tuple[Tensor, Tensor], parts: int = 1, part: int = 0) -> list[Tensor]:
    """Returns this process's share of a batch, or of one of `parts` equal parts of the batch."""
    return [
        whole.chunk(parts)[part].chunk(dist.get_world_size())[dist.get_rank()] for whole in batch
    ]


def whole_batches(extra: Callable[[int], bool]) -> tuple[list[float], Net]:
    """Returns the losses and the network of one process with the whole batches."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for step, (x, labels) in enumerate(batches()):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x, extra(step)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses, net


def mean_over_processes(loss: Tensor) -> float:
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def check(losses: list[float], parameters: dict[str, Tensor], extra: Callable[[int], bool]) -> None:
    expected, net = whole_batches(extra)
    assert len(set(expected)) == STEPS
    torch.testing.assert_close(losses, expected, **EXACT)
    assert len(parameters) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameters[name], parameter, **EXACT)


# --- DistributedDataParallel ---------------------------------------------------------------


def ddp(use_extra: str, parts: int, options: dict[str, Any]) -> None:
    """Trains with `parts` accumulated gradients in each step."""
    extra = {"never": lambda _: False, "always": lambda _: True, "odd": lambda s: s % 2 == 1}
    used = extra[use_extra]
    model = DistributedDataParallel(network(), **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for step, batch in enumerate(batches()):
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for part in range(parts):
            last = part == parts - 1
            with nullcontext() if last else model.no_sync():
                x, labels = mine(batch, parts, part)
                share = nn.functional.cross_entropy(model(x, used(step)), labels) / parts
                share.backward()
            loss += share.detach()
        optimizer.step()
        losses.append(mean_over_processes(loss))
    check(losses, dict(model.module.named_parameters()), used)


@pytest.mark.parametrize(
    ("count", "use_extra", "parts", "options"),
    [
        (2, "always", 1, {}),
        (3, "always", 1, {}),
        (4, "always", 1, {}),
        (2, "always", 1, {"static_graph": True}),
        (2, "always", 1, {"gradient_as_bucket_view": True, "bucket_cap_mb": 0.001}),
        (2, "odd", 1, {"find_unused_parameters": True}),
        (4, "never", 1, {"find_unused_parameters": True}),
        (2, "never", 1, {"static_graph": True}),
        (2, "always", 2, {}),
        (4, "always", 3, {"bucket_cap_mb": 0.001}),
        (2, "odd", 2, {"find_unused_parameters": True, "gradient_as_bucket_view": True}),
    ],
)
def test_ddp_is_one_process_on_the_whole_batch(
    count: int, use_extra: str, parts: int, options: dict[str, Any], processes: Processes
) -> None:
    processes.run(count, ddp, use_extra, parts, options)


def ddp_of_replaced_layers() -> None:
    """The class of a network's layers is changed under DDP, in the middle of training."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)).double()
    alone = copy.deepcopy(net)
    model = DistributedDataParallel(net)
    pairs = [(m, torch.optim.Adam(m.parameters(), lr=0.01)) for m in (model, alone)]
    for step, batch in enumerate(batches()):
        if step == 2:
            convkern.replace_conv2d(model)
            assert isinstance(net[0], convkern.Conv2d)
        for module, optimizer in pairs:
            optimizer.zero_grad()
            x = mine(batch)[0] if module is model else batch[0]
            module(x).square().mean().backward()
            optimizer.step()
    for actual, expected in zip(net.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, **EXACT)


def test_layers_may_be_replaced_under_ddp(processes: Processes) -> None:
    processes.run(2, ddp_of_replaced_layers)


# --- fully_shard ---------------------------------------------------------------------------


def sharded(policy: Any = None, reshard: bool = True, dtype: torch.dtype = torch.float64) -> Net:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net, options = network().to(dtype), {} if policy is None else {"mp_policy": policy}
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (*net.features, net.extra):
        if isinstance(layer, convkern.Conv2d):
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard, **options)
    fully_shard(net, mesh=mesh, reshard_after_forward=reshard, **options)
    return net


def fsdp(reshard: bool, parts: int) -> None:
    net = sharded(reshard=reshard)
    whole = network()
    assert sum(p.to_local().numel() for p in net.parameters()) < sum(
        p.numel() for p in whole.parameters()
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for batch in batches():
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for part in range(parts):
            net.set_requires_gradient_sync(part == parts - 1)
            x, labels = mine(batch, parts, part)
            share = nn.functional.cross_entropy(net(x, True), labels) / parts
            share.backward()
            loss += share.detach()
        optimizer.step()
        losses.append(mean_over_processes(loss))
    full = {name: parameter.full_tensor() for name, parameter in net.named_parameters()}
    check(losses, full, lambda _: True)


@pytest.mark.parametrize(
    ("count", "reshard", "parts"), [(2, True, 1), (3, True, 1), (4, False, 1), (2, True, 3)]
)
def test_fsdp_is_one_process_on_the_whole_batch(
    count: int, reshard: bool, parts: int, processes: Processes
) -> None:
    processes.run(count, fsdp, reshard, parts)


def share_of(rank: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, labels = (whole.chunk(dist.get_world_size())[rank] for whole in batch)
    return x.bfloat16(), labels


def fsdp_in_bfloat16() -> None:
    """Parameters are float32, computation is in bfloat16, and gradients are averaged in float32.
    Compared with one process that does the same for each process's share."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    seen = []
    net = sharded(
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
        dtype=torch.float32,
    )
    net.features[1].register_forward_hook(lambda _m, _x, y: seen.append(y.dtype))
    alone, size = network().float(), dist.get_world_size()
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.5, momentum=0.9) for n in (net, alone)]
    losses = []
    for batch in batches():
        x, labels = share_of(dist.get_rank(), batch)
        loss = nn.functional.cross_entropy(net(x, True).float(), labels)
        loss.backward()

        total = torch.zeros(())
        for rank in range(size):
            x, labels = share_of(rank, batch)
            halves = {name: p.bfloat16() for name, p in alone.named_parameters()}
            scores = torch.func.functional_call(alone, halves, (x, True))
            total = total + nn.functional.cross_entropy(scores.float(), labels) / size
        total.backward()
        losses.append(total.item())
        assert mean_over_processes(loss) == pytest.approx(total.item(), rel=1e-3)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert seen == [torch.bfloat16] * STEPS
    assert len(set(losses)) == STEPS
    start = dict(network().float().named_parameters())
    for (name, actual), expected in zip(net.named_parameters(), alone.parameters(), strict=True):
        moved = (expected - start[name]).abs().max().item()
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.full_tensor(), expected, rtol=0, atol=0.02 * moved)


def test_fsdp_in_bfloat16(processes: Processes) -> None:
    processes.run(2, fsdp_in_bfloat16)


def fsdp_with_kept_weights() -> None:
    """fully_shard fills the memory of gathered weights without counting a new version. Weights kept
    packed would be those before the last step."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(3)
    net = nn.Sequential(*(convkern.Conv2d(128, 128, 3, padding=1) for _ in range(3)))
    alone = copy.deepcopy(net)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (*net, net):
        fully_shard(layer, mesh=mesh)
    pairs = [(m, torch.optim.SGD(m.parameters(), lr=10.0)) for m in (net, alone)]
    x = torch.randn(2, 128, 8, 8)
    assert convkern.explain(x, alone[0].weight, padding=1).algorithm == "winograd_2x2"
    convkern.set_weight_cache(True)
    try:
        for _ in range(8):  # the same memory seldom comes back at once
            for module, optimizer in pairs:
                optimizer.zero_grad()
                module(x).square().mean().backward()
                optimizer.step()
            with torch.no_grad():
                torch.testing.assert_close(net(x), alone(x))
        kept = convkern.weight_cache_bytes()
        del alone, pairs, module, optimizer
        assert kept > 0
        assert convkern.weight_cache_bytes() == 0
    finally:
        convkern.set_weight_cache(False)


def test_fsdp_weights_are_not_kept(processes: Processes) -> None:
    processes.run(2, fsdp_with_kept_weights)


def fsdp_of_split_channels() -> None:
    """Four processes: two pairs share the batches, and the processes of a pair share the
    channels."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import (
        DTensor,
        Replicate,
        Shard,
        distribute_module,
        distribute_tensor,
    )

    torch.manual_seed(3)
    conv = convkern.Conv2d
    net = nn.Sequential(
        conv(2, 8, 3, padding=1), nn.GELU(), conv(8, 8, 3, padding=1, groups=8), conv(8, 3, 9)
    ).double()
    alone = copy.deepcopy(net)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("batch", "channels"))
    channels = mesh["channels"]
    split = {"0": (Shard(0), Shard(0)), "2": (Shard(0), Shard(0)), "3": (Shard(1), Replicate())}

    def partition(name: str, layer: nn.Module, mesh: Any) -> None:
        for key, placement in zip(("weight", "bias"), split.get(name, ()), strict=False):
            part = distribute_tensor(getattr(layer, key).detach(), mesh, [placement])
            layer.register_parameter(key, nn.Parameter(part))

    distribute_module(net, channels, partition)
    fully_shard(net, mesh=mesh["batch"])
    optimizers = [torch.optim.Adam(n.parameters(), lr=0.01) for n in (net, alone)]
    for x, labels in batches():
        for optimizer in optimizers:
            optimizer.zero_grad()
        expected = nn.functional.cross_entropy(alone(x).flatten(1), labels)
        expected.backward()
        x, labels = (whole.chunk(2)[mesh["batch"].get_local_rank()] for whole in (x, labels))
        scores = net(DTensor.from_local(x, channels, [Replicate()]))
        assert scores.placements[0].is_partial()
        scores = scores.redistribute(channels, [Replicate()]).to_local()
        nn.functional.cross_entropy(scores.flatten(1), labels).backward()
        for optimizer in optimizers:
            optimizer.step()
    for (name, actual), whole in zip(net.named_parameters(), alone.parameters(), strict=True):
        assert actual.device_mesh.ndim == 2, name
        torch.testing.assert_close(actual.full_tensor(), whole, **EXACT)


def test_fsdp_of_layers_whose_channels_are_split(processes: Processes) -> None:
    processes.run(4, fsdp_of_split_channels)
