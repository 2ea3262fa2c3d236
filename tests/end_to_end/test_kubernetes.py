"""Snakemake's Kubernetes executor with `profiles/kubernetes`, on a simulated cluster (tests/cluster)."""

import hashlib
import importlib.util
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("snakemake_executor_plugin_kubernetes", reason="`make cloud` installs what Kubernetes and S3 need")

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("one_node_kubernetes", HERE.parent / "cluster" / "one_node_kubernetes.py")
kubernetes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kubernetes)


@pytest.fixture
def cloud(fresh, bucket):
    """A project configured for the bucket."""
    fresh.variables = {
        "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": bucket.meta.client.meta.endpoint_url,
        "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "key",
        "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "secret",
    }
    return fresh


@pytest.fixture
def cluster(cloud, tmp_path):
    """A cluster that `snakemake` finds in the project."""
    if not kubernetes.can_mount():
        pytest.skip("needs permission to mount (root)")
    place = tmp_path / "cluster"
    place.mkdir()
    watch = {"PYTHONPATH": f"{HERE / 'watch'}:{kubernetes.WORKDIR}/src", "FEWSHOT_STARTED": str(cloud.started)}
    one = kubernetes.Cluster(place, kubernetes.image_environment(place, watch))
    cloud.variables["KUBECONFIG"] = str(one.kubeconfig)
    yield one
    one.stop()


COMMAND = "snakemake --profile profiles/kubernetes --seconds-between-status-checks 1"


def stored(bucket):
    """Hash of every object in a bucket, by name."""
    return {item.key: hashlib.sha256(item.get()["Body"].read()).hexdigest() for item in bucket.objects.all()}


def test_dry_run(cloud):
    """The profile plans the suite without submitting or running anything."""
    planned = cloud.run(f"{COMMAND} -n")
    for rule, jobs in (("prepare", 1), ("train", 3), ("evaluate", 3), ("report", 1)):
        assert f"{rule} {jobs}" in " ".join(planned.text.split())


def test_pods_give_the_same_table(cloud, cluster, bucket, made):
    """Every stage runs in pods; an evicted training resumes from its checkpoint; results are byte-identical."""
    cloud.edit("train: {device: cpu}", "train: {device: cpu, checkpoint_seconds: 0.0}")
    process = cloud.start(COMMAND)
    evict_the_training(cloud, cluster)
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text + "".join(pod.log for pod in cluster.pods.values())
    assert f"Tables: s3://{bucket.name}/results/tables/tiny" in text
    found = stored(bucket)
    expected = {name: digest for name, digest in made.digests().items() if name in found}
    assert {"results/tables/tiny/results.csv", "results/tables/tiny/manifest.json"} <= expected.keys()
    assert {name: found[name] for name in expected} == expected
    assert cloud.work() == cloud.everything + Counter([f"train {cloud.RIDGE}"])
    assert "resuming after step" in log_of_training(bucket, cloud.RIDGE)
    assert all(pod.limits["cpu"] for pod in cluster.pods.values())
    assert "Nothing to be done" in cloud.run(COMMAND).text
    assert not (cloud.folder / "results").exists()


def log_of_training(bucket, experiment):
    (found,) = bucket.objects.filter(Prefix=f"logs/train/{experiment}")
    return found.get()["Body"].read().decode()


def evict_the_training(cloud, cluster):
    """Evict the pod that trains the ridge learner as soon as a checkpoint exists."""
    checkpoints = cluster.folder / "claims" / "fewshot-cache" / "train" / cloud.train_key(cloud.RIDGE)
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if (checkpoints / "checkpoints" / "checkpoint.pt").exists():
            pod = next(pod for pod in cluster.pods.values() if cloud.RIDGE in pod.log)
            return pod.evict()
        time.sleep(0.05)
    raise AssertionError("no pod trained")
