"""A data set made by a Ray cluster of two nodes on this machine, one of which is lost on the way."""

import hashlib
import socket
import time
from pathlib import Path

import labelled_cts
import pytest

from diffrender.errors import BackendError
from diffrender.synth.cases import Case
from diffrender.synth.cluster import reached
from diffrender.synth.datasets import DatasetSettings, dataset
from diffrender.synth.imaging import Imaging

STORE = 80_000_000  # bytes of shared memory of a node, Ray's least


def hashes(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file()
    }


def test_a_node_is_killed_and_the_data_set_is_complete_and_the_same(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cases = [Case(*labelled_cts.write(tmp_path / f"ct{n}", n)) for n in range(2)]
    settings = DatasetSettings(views=12, seed=3, imaging=Imaging(view="frontal", image_size=(24, 32)))
    dataset(cases, tmp_path / "alone", settings).run()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False},
    )
    try:
        lost = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        cluster.wait_for_nodes()
        job, killed = dataset(cases, tmp_path / "shared", settings, ray=cluster.address), False
        for progress in job:
            if 0 < progress.done < progress.total and not killed:
                cluster.remove_node(lost, allow_graceful=False)
                killed = True
        assert killed
        assert job.finished
    finally:
        cluster.shutdown()
    assert hashes(tmp_path / "shared") == hashes(tmp_path / "alone")


def test_a_cluster_that_does_not_answer_is_said_within_ten_seconds():
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BackendError, match=rf"No Ray cluster answers at 127\.0\.0\.1:{port}"):
        reached(f"127.0.0.1:{port}")


def test_what_answers_and_is_no_cluster_is_said():
    pytest.importorskip("ray")
    from diffrender.synth.cluster import ANSWERS_WITHIN, _connect

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        reached(address)  # somebody is there
        began = time.monotonic()
        with pytest.raises(BackendError, match="No Ray cluster answers"):
            _connect(address)
        assert time.monotonic() - began < ANSWERS_WITHIN + 5


@pytest.mark.parametrize("address", ["localhost", "ray://host:port", "host:"])
def test_what_is_no_address_is_refused(address):
    pytest.importorskip("ray")
    with pytest.raises(BackendError, match="no address"):
        reached(address)
