"""A saved state is restored bitwise, on any mesh. The state may be donated as soon as `save` returns."""

from __future__ import annotations

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from halcyon.checkpoint import layout, list_checkpoints
from halcyon.checkpoint.verify import find_damage
from halcyon.host.errors import RunChanged
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import Manifest
from tests.trainer.checkpoint.helpers import (
    SHARDINGS,
    Root,
    epoch,
    fill,
    mesh,
    numbers,
    on,
    open_root,
    position,
    restore_newest,
    restore_right,
    same_bits,
    template,
)

TRANSPOSED = {
    "weight": PartitionSpec("tensor", "fsdp"),
    "half": PartitionSpec("fsdp", "tensor"),
    "bias": PartitionSpec("fsdp"),
    "counts": PartitionSpec(),
}


def test_a_fresh_root_restores_nothing(root: Root) -> None:
    with open_root(root) as checkpointer:
        assert restore_newest(checkpointer) is None
        assert checkpointer.newest is None


def test_every_value_of_every_type_comes_back_bitwise(root: Root) -> None:
    fill(root, 3, 7)
    with open_root(root) as checkpointer:
        restored = restore_right(checkpointer)
    assert restored.step == 7
    assert restored.skipped == ()
    assert restored.checkpoint == checkpointer.newest
    assert same_bits(restored.state, numbers(7))
    assert list_checkpoints(root.spec).committed[0].step == 7
    assert [find_damage(Store(root.spec), entry) for entry in list_checkpoints(root.spec).committed] == [(), ()]


@pytest.mark.parametrize(
    ("rows", "columns", "shardings"),
    [
        (1, 1, SHARDINGS),
        (4, 2, SHARDINGS),
        (2, 4, SHARDINGS),
        (8, 1, SHARDINGS),
        (4, 1, TRANSPOSED),
        (2, 4, TRANSPOSED),
        (1, 8, TRANSPOSED),
    ],
)
def test_restores_onto_any_mesh(file_root: Root, rows: int, columns: int, shardings: dict[str, PartitionSpec]) -> None:
    fill(file_root, 5)
    wanted = template(mesh(rows, columns), SHARDINGS | shardings)
    with open_root(file_root) as checkpointer:
        restored = checkpointer.restore(wanted)
    assert restored is not None
    assert same_bits(restored.state, numbers(5))
    assert {name: array.sharding for name, array in restored.state.items()} == {
        name: shape.sharding for name, shape in wanted.items()
    }


@pytest.mark.parametrize(("saved", "wanted"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_state_of_another_type_is_rejected(file_root: Root, saved: str, wanted: str) -> None:
    moments = np.linspace(-1, 1, 16)
    fill(file_root, 1, make=lambda step: {"mu": moments.astype(saved)})
    with (
        open_root(file_root) as checkpointer,
        pytest.raises(RunChanged, match=rf"mu is {wanted}\[16\], the checkpoint's is {saved}"),
    ):
        checkpointer.restore({"mu": moments.astype(wanted)})


def test_an_array_serves_as_template_and_a_named_array_keeps_its_axes(file_root: Root) -> None:
    embed, heads = hax.Axis("embed", 8), hax.Axis("heads", 4)
    state = {"a": hax.arange(embed).broadcast_axis(heads), "n": 3, "x": np.float64(0.1)}
    fill(file_root, 1, make=lambda step: state)
    with open_root(file_root) as checkpointer:
        restored = checkpointer.restore(state)
    assert restored is not None
    assert restored.state["a"].axes == state["a"].axes
    assert np.array_equal(restored.state["a"].array, state["a"].array)
    assert (int(restored.state["n"]), float(restored.state["x"])) == (3, 0.1)
    manifest = Manifest.model_validate_json(
        (file_root.folder / restored.checkpoint.path / "MANIFEST.json").read_bytes()
    )
    assert {leaf.path: leaf.axes for leaf in manifest.leaves} == {"a": ("heads", "embed"), "n": None, "x": None}


def test_the_state_may_be_donated_and_overwritten_right_after_save_returns(file_root: Root) -> None:
    devices = mesh(2, 2)
    sharding = NamedSharding(devices, PartitionSpec("fsdp", "tensor"))
    spoil = jax.jit(lambda state: jax.tree.map(lambda array: array * 0 - 1, state), donate_argnums=0)
    with open_root(file_root) as checkpointer:
        for step in range(1, 6):
            state = {"x": jax.device_put(jnp.full((1024, 256), step, jnp.float32), sharding)}
            checkpointer.save(step, state, position(step))
            spoiled = state
            for _ in range(3):
                spoiled = spoil(spoiled)
            assert state["x"].is_deleted()
        checkpointer.finish()
    with open_root(file_root) as checkpointer:
        restored = checkpointer.restore({"x": jax.ShapeDtypeStruct((1024, 256), jnp.float32, sharding=sharding)})
    assert restored is not None
    assert same_bits(restored.state, {"x": np.full((1024, 256), 5, np.float32)})


def test_a_restored_state_may_be_donated(file_root: Root) -> None:
    fill(file_root, 2)
    wanted = template(mesh(1, 8), dict.fromkeys(SHARDINGS, PartitionSpec()))
    with open_root(file_root) as checkpointer:
        restored = checkpointer.restore(wanted)
    assert restored is not None
    before = numbers(2)
    negated = jax.jit(lambda state: {"bias": -state["bias"]}, donate_argnums=0)({"bias": restored.state["bias"]})
    assert same_bits(negated, {"bias": -before["bias"]})
    assert same_bits({"weight": restored.state["weight"]}, {"weight": before["weight"]})


def test_a_replicated_array_is_written_once_and_a_large_shard_in_parts(
    file_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "CHUNK_LIMIT_BYTES", 1 << 10)
    devices = mesh(4, 2)
    arrays = {
        "all": np.arange(512, dtype=np.float32).reshape(8, 64),
        "rows": np.arange(2048, dtype=np.float32).reshape(8, 256),
    }
    specs = {"all": PartitionSpec(), "rows": PartitionSpec("fsdp", None)}
    fill(file_root, 1, make=lambda step: on(devices, arrays, specs))
    names = [
        str(path.relative_to(file_root.folder)).split("/data/")[-1]
        for path in file_root.files()
        if "/data/" in str(path)
    ]
    assert sorted(name for name in names if name.startswith("all/c")) == ["all/c/0/0", "all/c/1/0"]
    assert sorted(name for name in names if name.startswith("rows/c")) == [f"rows/c/{row}/0" for row in range(8)]
    shapes = {
        name: jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=NamedSharding(mesh(2, 4), PartitionSpec(None, "tensor"))
        )
        for name, array in arrays.items()
    }
    with open_root(file_root) as checkpointer:
        restored = checkpointer.restore(shapes)
    assert restored is not None
    assert same_bits(restored.state, arrays)


def test_zeros_have_a_file_too(file_root: Root) -> None:
    """By default Zarr does not write a chunk that equals its fill value.

    A lost chunk would then look like a chunk of zeros.
    """
    arrays = {"zeros": np.zeros((8, 4), np.float32)}
    fill(file_root, 1, make=lambda step: on(mesh(4, 2), arrays, {"zeros": PartitionSpec("fsdp")}))
    names = [path.name for path in file_root.files() if "/zeros/c/" in str(path)]
    assert len(names) == 4
    with open_root(file_root) as checkpointer:
        restored = checkpointer.restore({"zeros": np.zeros((8, 4), np.float32)})
    assert restored is not None
    assert same_bits(restored.state, arrays)


def test_the_files_are_plain_zarr_for_others_to_read(file_root: Root) -> None:
    import tensorstore as ts

    fill(file_root, 4)
    prefix = list_checkpoints(file_root.spec).committed[0].path
    kvstore = {"driver": "file", "path": f"{file_root.folder}/{prefix}data/weight/"}
    array = ts.open({"driver": "zarr3", "kvstore": kvstore}).result()
    assert array.read().result().tobytes() == numbers(4)["weight"].tobytes()
    assert array.spec().to_json()["metadata"]["codecs"][-1] == {"name": "crc32c"}


def test_a_leaf_that_is_no_array_is_refused_by_name(file_root: Root) -> None:
    with open_root(file_root) as checkpointer:
        with pytest.raises(TypeError, match=r"state leaf 'model\.activation' is a function"):
            checkpointer.save(1, {"model": {"activation": lambda x: x}}, position(1))
        with pytest.raises(TypeError, match="state leaf 'key' is"):
            checkpointer.save(1, {"key": jax.random.key(0)}, position(1))


def test_saving_a_committed_step_again_does_nothing_and_an_earlier_one_is_refused(file_root: Root) -> None:
    fill(file_root, 5, epoch=epoch(1))
    with open_root(file_root, epoch=epoch(2)) as checkpointer:
        restored = restore_right(checkpointer)
        checkpointer.save(5, restored.state, position(5))
        checkpointer.finish()
        assert [entry.epoch for entry in list_checkpoints(file_root.spec).committed] == [epoch(1)]
        with pytest.raises(ValueError, match="step 4 comes before the committed step 5"):
            checkpointer.save(4, restored.state, position(4))


def test_a_manifest_records_the_step_the_epoch_and_the_data_position(file_root: Root) -> None:
    with open_root(file_root, epoch=epoch(3, 2), clock=lambda: 1_800_000_000.5) as checkpointer:
        checkpointer.save(6, on(mesh(4, 2), numbers(6)), position(6))
        checkpointer.finish()
        save = checkpointer.last_save
    assert save is not None
    manifest = Manifest.model_validate_json((file_root.folder / save.checkpoint.path / "MANIFEST.json").read_bytes())
    assert (manifest.step, manifest.epoch, manifest.process_count, manifest.seed) == (6, epoch(3, 2), 1, 1)
    assert manifest.data_position == position(6)
    assert manifest.time == save.checkpoint.time == "2027-01-15T08:00:00.500Z"
    assert set(manifest.versions) == {"halcyon", "jax", "numpy", "python", "tensorstore"}
    assert {leaf.path: (leaf.shape, leaf.dtype) for leaf in manifest.leaves} == {
        name: (np.shape(array), array.dtype.name) for name, array in numbers(6).items()
    }
    assert save.checkpoint.size_bytes == sum(file.size_bytes for file in manifest.files) + len(
        (file_root.folder / save.checkpoint.path / "MANIFEST.json").read_bytes()
    )
