"""A DVC remote on S3, with a local server."""

import pytest

pytest.importorskip("dvc_s3", reason="`make cloud` installs what Kubernetes and S3 need")
pytestmark = pytest.mark.slow


def test_push_and_pull(recorded, bucket, tmp_path):
    """A clone pulls the models and tables that another clone pushed, and has nothing left to run."""
    recorded.run(f"dvc remote add -q -d shelf s3://{bucket.name}/results")
    recorded.run(f"dvc remote modify -q shelf endpointurl {bucket.meta.client.meta.endpoint_url}")
    recorded.variables = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    recorded.commit("remote")
    recorded.run("dvc push -q")
    assert any(bucket.objects.filter(Prefix="results/files/md5"))

    recorded.run(f"git clone -q {recorded.folder} {tmp_path / 'clone'}")
    clone = type(recorded)(tmp_path / "clone")
    clone.variables = recorded.variables
    clone.run("dvc pull -q")
    assert clone.digests() == recorded.digests()
    assert "Nothing to be done" in clone.run("snakemake -n").text
    clone.check_table()
