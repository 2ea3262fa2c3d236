"""A simulated Kubernetes cluster: the few API calls that Snakemake makes; pods are processes.

A pod sees its volumes at the paths the job requests (private mounts, so this needs root) and has its own environment,
not that of the caller. Images are not pulled: every pod runs in the environment of this Python.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WORKDIR = Path("/workdir")  # where Snakemake's pods work


def can_mount() -> bool:
    """Whether this machine allows private mounts."""
    probe = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        return False


class Pod:
    """One submitted job."""

    def __init__(self, name: str, spec: dict, folder: Path, environment: dict[str, str]) -> None:
        self.name, self.folder = name, folder
        container = spec["containers"][0]
        claims = {
            volume["name"]: folder.parent / "claims" / volume["persistentVolumeClaim"]["claimName"]
            for volume in spec["volumes"]
            if "persistentVolumeClaim" in volume
        }
        (folder / "workdir").mkdir(parents=True)
        script = [f"mount --bind {folder / 'workdir'} {WORKDIR}"]
        for mount in container["volumeMounts"]:
            if mount["name"] in claims:
                claims[mount["name"]].mkdir(parents=True, exist_ok=True)
                script += [
                    f"mkdir -p {mount['mountPath']}",
                    f"mount --bind {claims[mount['name']]} {mount['mountPath']}",
                ]
        script += [f"cd {container['workingDir']}", f"exec {shlex.join([*container['command'], *container['args']])}"]
        self.limits = container["resources"].get("limits", {})
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(script)],
            env=environment,
            stdout=(folder / "log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def evict(self) -> None:
        """End it as a drained node does: SIGTERM to the container."""
        os.killpg(self.process.pid, signal.SIGTERM)

    def container_status(self) -> dict:
        code = self.process.poll()
        state = {"running": {}} if code is None else {"terminated": {"exitCode": abs(code)}}
        return {"name": "snakemake", "state": state, "ready": True, "image": "", "imageID": "", "restartCount": 0}


class Cluster:
    """The API server and its pods.

    Args:
        folder: folder for claims, pods and the `kubeconfig` file.
        environment: variables set in every pod, as by its image.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.pods: dict[str, Pod] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.made_workdir = not WORKDIR.exists()
        WORKDIR.mkdir(exist_ok=True)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        address = f"http://127.0.0.1:{self.server.server_port}"
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "one", "cluster": {"server": address}}],
                    "users": [{"name": "me", "user": {}}],
                    "contexts": [{"name": "one", "context": {"cluster": "one", "user": "me"}}],
                    "current-context": "one",
                }
            )
        )

    def start_pod(self, body: dict) -> None:
        name, spec = body["metadata"]["name"], body["spec"]["template"]["spec"]
        variables = dict(self.environment)
        for variable in spec["containers"][0].get("env", []):
            reference = variable["valueFrom"]["secretKeyRef"]
            variables[variable["name"]] = self.secrets[reference["name"]][reference["key"]]
        self.pods[name] = Pod(name, spec, Path(tempfile.mkdtemp(prefix="pod-", dir=self.folder)), variables)

    def stop(self) -> None:
        self.server.shutdown()
        for pod in self.pods.values():
            if pod.process.poll() is None:
                os.killpg(pod.process.pid, signal.SIGKILL)
            pod.process.wait()
        if self.made_workdir:
            WORKDIR.rmdir()


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

        def answer(self, content: dict, status: int = 200) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def body(self) -> dict:
            return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")

        def do_POST(self) -> None:
            body = self.body()
            if self.path.endswith("/secrets"):
                secret = {key: b64decode(value).decode() for key, value in (body.get("data") or {}).items()}
                cluster.secrets[body["metadata"]["name"]] = secret
            elif re.search(r"/jobs$", self.path):
                cluster.start_pod(body)
            self.answer(body, 201)

        def do_GET(self) -> None:
            if found := re.search(r"/jobs/([^/]+)/status$", self.path):
                self.answer({"metadata": {"name": found[1]}, "status": {"active": 1}})
            elif found := re.search(r"/pods\?labelSelector=job-name(?:%3D|=)([^&]+)", self.path):
                pod = cluster.pods[found[1]]
                status = {"containerStatuses": [pod.container_status()]}
                self.answer({"items": [{"metadata": {"name": pod.name}, "status": status}]})
            elif found := re.search(r"/pods/([^/]+)/log", self.path):
                self.answer({"log": cluster.pods[found[1]].log})
            else:
                self.answer({"message": self.path}, 404)

        def do_DELETE(self) -> None:
            self.body()
            self.answer({})

    return Handler


def image_environment(folder: Path, extra: dict[str, str]) -> dict[str, str]:
    """Return the variables of the image of profiles/kubernetes/Dockerfile, with this Python instead of its own.

    The plugins that Snakemake would install in every pod are already installed, so `pip` does nothing. The OpenBLAS
    kernels are those of this machine: with others the last bit of a result may differ.
    """
    pip = folder / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text("#!/bin/sh\nexit 0\n")
    pip.chmod(0o755)
    path = [str(pip.parent), str(Path(sys.executable).parent), "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
    assert shutil.which("unshare")
    kernels = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}
    return {"PATH": os.pathsep.join(path), "PYTHONPATH": f"{WORKDIR}/src", "HOME": str(folder), **kernels, **extra}
