"""The folder saved_models/: the configuration of TensorFlow Serving and of what runs it."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import exported
import laws
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfgen import export, model_repository, zoo

FOLDER = Path(__file__).resolve().parents[1] / "saved_models"
FLAGS = {
    "--model_config_file=/models/models.config",
    "--model_config_file_poll_wait_seconds=30",
    "--monitoring_config_file=/models/monitoring.config",
    "--enable_batching=true",
    "--batching_parameters_file=/models/batching.config",
}
PORTS = {"grpc": 8500, "http": 8501}


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def settings(name: str) -> dict[str, list[str]]:
    """The scalar fields of a text-format message, innermost names, without comments."""
    text = re.sub(r"#.*", "", (FOLDER / name).read_text())
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r'(\w+)\s*(?::|\{\s*value:)\s*("[^"]*"|\w+)', text):
        found.setdefault(key, []).append(value)
    return found


def test_models_config_lists_what_is_committed():
    text = (FOLDER / "models.config").read_text()
    message = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    served = {config.name: config for config in message.model_config_list.config}
    assert served["vae_2d_mnist"].base_path == "/models/vae_2d_mnist"
    assert served["vae_2d_mnist"].model_platform == "tensorflow"
    assert next(iter(model_repository.versions(FOLDER / "vae_2d_mnist"))) == 1


def test_the_committed_version_is_the_shipped_entry():
    """Its weights are those of the zoo, and it answers as the model does."""
    path = FOLDER / "vae_2d_mnist" / "1"
    details = exported.metadata(path)
    info = zoo.info("vae_2d_mnist")
    fix = "run `tfgen export vae_2d_mnist --version 1` on an emptied saved_models/vae_2d_mnist"
    assert details["zoo"] == {key: info[key] for key in {"name", "sha256", *details["zoo"]}}, fix
    model = zoo.load("vae_2d_mnist")
    assert set(details["signatures"]) == set(model.signatures()), fix
    loaded = tf.saved_model.load(str(path)).signatures
    images = loaded["sample"](seed=tf.range(16, dtype=tf.int64))["images"]
    laws.assert_close_images(images.numpy(), model.sample(16, seed=0), 256)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert size < 7 * 10**6, "a clone carries it for ever"


def test_batching_config():
    """The rules that TensorFlow Serving holds these values to."""
    found = settings("batching.config")
    sizes = list(map(int, found.pop("allowed_batch_sizes")))
    single = {key: value for key, (value,) in found.items()}
    assert single.pop("enable_large_batch_splitting") == "true"
    numbers = {key: int(value) for key, value in single.items()}
    assert set(numbers) == {
        "max_batch_size",
        "max_execution_batch_size",
        "batch_timeout_micros",
        "num_batch_threads",
        "max_enqueued_batches",
    }
    assert all(value > 0 for value in numbers.values())
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == numbers["max_execution_batch_size"] <= numbers["max_batch_size"]
    assert tuple(sizes) == export.BATCHES, "the warm-up of XLA must know the sizes"


def test_monitoring_config():
    text = (FOLDER / "monitoring.config").read_text()
    assert "prometheus_config {" in text
    assert settings("monitoring.config") == {
        "enable": ["true"],
        "path": ['"/monitoring/prometheus/metrics"'],
    }


def test_docker_compose():
    (compose,) = documents("docker-compose.yml")
    services = compose["services"]
    assert {name: (s["image"], s["profiles"]) for name, s in services.items()} == {
        "serving": ("tensorflow/serving", ["cpu"]),
        "serving-gpu": ("tensorflow/serving:latest-gpu", ["gpu"]),
    }
    for service in services.values():
        assert set(service["command"]) == FLAGS
        assert service["volumes"] == [".:/models:ro"]
        assert set(service["ports"]) == {f"127.0.0.1:{port}:{port}" for port in PORTS.values()}
        kind, shell, option, script = service["healthcheck"]["test"]
        assert (kind, shell, option) == ("CMD", "bash", "-c")
        assert "GET /v1/models/vae_2d_mnist " in script
    reserved = services["serving-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "deploy" not in services["serving"]


@pytest.mark.parametrize("state", ["AVAILABLE", "LOADING"])
def test_the_health_check_of_docker_compose(state):
    """The script itself, against a server that answers as TensorFlow Serving does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/v1/models/vae_2d_mnist"
            self.send_response(200)
            self.end_headers()
            answer = {"model_version_status": [{"version": "1", "state": state}]}
            self.wfile.write(json.dumps(answer, indent=1).encode())

        def log_message(self, *_):
            pass

    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    (compose,) = documents("docker-compose.yml")
    script = compose["services"]["serving"]["healthcheck"]["test"][-1]
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        script = script.replace("/8501", f"/{server.server_port}")
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        run = subprocess.run([bash, "-c", script], capture_output=True, timeout=30)
        thread.join(30)
    assert (run.returncode == 0) == (state == "AVAILABLE")
    closed = subprocess.run([bash, "-c", script], capture_output=True, timeout=30)
    assert closed.returncode != 0


@pytest.fixture(scope="module")
def kubernetes() -> dict[str, dict]:
    found = {document["kind"]: document for document in documents("kubernetes.yaml")}
    assert set(found) == {
        "PersistentVolumeClaim",
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
    }
    return found


def test_kubernetes_deployment(kubernetes):
    deployment = kubernetes["Deployment"]
    assert deployment["apiVersion"] == "apps/v1"
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"].startswith("tensorflow/serving")
    assert set(container["args"]) == FLAGS
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == PORTS
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in PORTS
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/vae_2d_mnist"
    for kind in ("requests", "limits"):
        assert set(container["resources"][kind]) == {"cpu", "memory"}
        gibibytes = int(container["resources"][kind]["memory"].removesuffix("Gi"))
        assert gibibytes * 2**30 > 2.8e9  # what a server with the whole zoo holds (start.py)
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["models"] == {"name": "models", "mountPath": "/models", "readOnly": True}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert set(volumes) == set(mounts)
    claim = kubernetes["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    drain = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert 0 < drain < pod["spec"]["terminationGracePeriodSeconds"]
    assert "replicas" not in deployment["spec"], "the autoscaler would be overruled at each apply"
    path = settings("monitoring.config")["path"][0].strip('"')
    assert container["livenessProbe"]["httpGet"]["path"] == path
    assert pod["metadata"]["annotations"]["prometheus.io/path"] == path


def test_kubernetes_parts_fit_together(kubernetes):
    labels = kubernetes["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kubernetes["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert kubernetes["Service"]["spec"]["selector"] == labels
    assert kubernetes["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    ports = {port["targetPort"]: port["port"] for port in kubernetes["Service"]["spec"]["ports"]}
    assert ports == PORTS
    autoscaler = kubernetes["HorizontalPodAutoscaler"]
    assert autoscaler["apiVersion"] == "autoscaling/v2"
    target = autoscaler["spec"]["scaleTargetRef"]
    assert target["kind"] == "Deployment"
    assert target["name"] == kubernetes["Deployment"]["metadata"]["name"]
    assert 1 < autoscaler["spec"]["minReplicas"] < autoscaler["spec"]["maxReplicas"]
    assert autoscaler["spec"]["metrics"][0]["resource"]["name"] == "cpu"


def test_kserve(kubernetes):
    (service,) = documents("kserve.yaml")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service["kind"] == "InferenceService"
    name = service["metadata"]["name"]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name), "Kubernetes would refuse it"
    predictor = service["spec"]["predictor"]
    assert predictor["minReplicas"] < predictor["maxReplicas"]
    model = predictor["model"]
    assert model["modelFormat"] == {"name": "tensorflow"}
    assert model["runtimeVersion"] == "latest"  # KServe's default was 2.6.2 for long
    claim = kubernetes["PersistentVolumeClaim"]["metadata"]["name"]
    assert model["storageUri"] == f"pvc://{claim}/vae_2d_mnist"
    assert model["readinessProbe"]["httpGet"]["path"] == f"/v1/models/{name}"
    assert set(model["resources"]) == {"requests", "limits"}


def test_git_keeps_one_model():
    """What `tfgen export --all` makes is ignored, the committed version is not."""
    git = shutil.which("git")
    if git is None or not (FOLDER.parent / ".git").exists():
        pytest.skip("not a clone")

    def ignored(path: str) -> bool:
        run = subprocess.run([git, "check-ignore", "-q", path], cwd=FOLDER.parent)
        return run.returncode == 0

    assert ignored("saved_models/gan_mnist/1/saved_model.pb")
    assert ignored("saved_models/vae_2d_mnist/2/saved_model.pb")
    assert not ignored("saved_models/vae_2d_mnist/1/saved_model.pb")
    assert not ignored("saved_models/models.config")
    assert ignored(f"saved_models/{model_repository.LOCK}")


def test_readme_names_what_is_there():
    readme = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        if path.is_file() and path.name != "README.md":
            assert f"`{path.name}`" in readme
    assert "has not loaded them yet, on a CPU or a GPU" in readme
