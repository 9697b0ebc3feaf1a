"""The usual life of containers, by the Docker SDK for Python. Prints "whole" when all was right."""

import io
import sys
import tarfile
import time

import docker

client = docker.DockerClient(base_url="unix://" + sys.argv[1], version="auto", timeout=60)
image = "demo"


def raises(kind, status, call):
    try:
        call()
    except kind as error:
        assert error.response.status_code == status, (status, error)
        return str(error)
    raise AssertionError(f"{kind.__name__} was not raised")


began = int(time.time())
assert client.ping()
assert client.api._version == "1.43", client.api._version
assert client.version()["ApiVersion"] == "1.43"
assert client.info()["Containers"] == 0

# In front: what it says, and how it ends.
assert client.containers.run(image, ["echo", "hello"], remove=True) == b"hello\n"
both = client.containers.run(image, ["sh", "-c", "echo err >&2"], remove=True, stderr=True)
assert both == b"err\n", both
try:
    client.containers.run(image, ["sh", "-c", "exit 3"], remove=True)
    raise AssertionError("an exit status was overlooked")
except docker.errors.ContainerError as error:
    assert error.exit_status == 3, error

# Networks and volumes, and a container that has them.
network = client.networks.create("meadow", labels={"kind": "green"})
volume = client.volumes.create("barn", labels={"kind": "wood"})
web = client.containers.run(
    image,
    ["sh", "-c", "echo ready; exec sleep 1000"],
    name="web",
    detach=True,
    labels={"tier": "front"},
    environment={"WORD": "bird"},
    mem_limit="64m",
    network="meadow",
    ports={"80/tcp": ("127.0.0.1", None)},
    volumes={"barn": {"bind": "/barn", "mode": "rw"}},
    restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
)
assert web.status == "created" and len(web.id) == 64
web.reload()
assert web.status == "running" and web.labels == {"tier": "front"}
assert web.attrs["HostConfig"]["Memory"] == 64 << 20
assert web.ports["80/tcp"][0]["HostIp"] == "127.0.0.1"
assert [one.name for one in client.containers.list(filters={"label": "tier=front"})] == ["web"]
assert [one.name for one in network.client.networks.get("meadow").containers] == ["web"]
assert network.name in web.attrs["NetworkSettings"]["Networks"]

# Further processes.
code, (out, err) = web.exec_run(["sh", "-c", "echo $WORD; echo oh >&2; exit 4"], demux=True)
assert (code, out, err) == (4, b"bird\n", b"oh\n"), (code, out, err)
pieces = web.exec_run(["sh", "-c", "echo a; echo b"], stream=True).output
assert b"".join(pieces) == b"a\nb\n"
assert web.exec_run("id -u", user="1000").output == b"1000\n"
assert web.exec_run("pwd", workdir="/barn").output == b"/barn\n"

# Logs, at once and as they come.
while b"ready\n" not in web.logs():
    time.sleep(0.01)
assert web.logs(tail=1, stderr=False) == b"ready\n"
assert next(iter(web.logs(stream=True, follow=True))) == b"ready\n"
assert b"ready" in web.logs(timestamps=True)

# Looking closely.
stats = web.stats(stream=False)
assert stats["memory_stats"]["limit"] == 64 << 20 and stats["pids_stats"]["current"] >= 1
assert next(web.stats(decode=True))["id"] == web.id
assert any("sleep" in " ".join(row) for row in web.top()["Processes"])
assert {"Path": "/made", "Kind": 1} not in (web.diff() or [])
web.exec_run("touch /made")
assert {"Path": "/made", "Kind": 1} in web.diff()

# Files in and out.
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w") as tar:
    entry = tarfile.TarInfo("note")
    entry.size = 5
    tar.addfile(entry, io.BytesIO(b"hello"))
assert web.put_archive("/barn", packed.getvalue())
pieces, stat = web.get_archive("/barn/note")
assert stat["name"] == "note" and stat["size"] == 5, stat
with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
    assert tar.extractfile("note").read() == b"hello"

# Changes, and standing still.
web.update(mem_limit="96m", memswap_limit="96m")
web.pause()
web.reload()
assert web.status == "paused"
web.unpause()
web.rename("shop")
web.reload()
assert web.name == "shop" and web.attrs["HostConfig"]["Memory"] == 96 << 20
network.disconnect(web)
network.connect(web, aliases=["store"])
web.reload()
assert "store" in web.attrs["NetworkSettings"]["Networks"]["meadow"]["Aliases"]

# What is wrong has Docker's status.
raises(docker.errors.NotFound, 404, lambda: client.containers.get("nobody"))
raises(docker.errors.NotFound, 404, lambda: client.networks.get("nowhere"))
raises(docker.errors.NotFound, 404, lambda: client.volumes.get("nothing"))
missing = lambda: client.containers.create("127.0.0.1:1/no/such")
raises(docker.errors.ImageNotFound, 404, missing)
taken = raises(docker.errors.APIError, 409, lambda: client.containers.create(image, name="shop"))
assert "shop" in taken, taken
raises(docker.errors.APIError, 409, web.remove)
raises(docker.errors.APIError, 409, volume.remove)
raises(docker.errors.APIError, 403, network.remove)

# The end, and the beginning again.
web.stop(timeout=0)
assert web.wait()["StatusCode"] == 137
web.start()
web.kill("SIGTERM")
web.restart(timeout=0)
web.reload()
assert web.status == "running"

# Images.
made = web.commit("picture", tag="v1", changes=["ENV MORE=1"])
assert made.tags == ["picture:v1"], made.tags
assert made.tag("copy", tag="v2")
assert {"picture:v1", "copy:v2"} <= {tag for one in client.images.list() for tag in one.tags}
assert made.history()[0]["Id"]
saved = b"".join(client.images.get("picture:v1").save(named="picture:v1"))
client.images.remove("picture:v1")
client.images.remove("copy:v2")
assert client.images.load(saved)[0].tags == ["picture:v1"]
recipe = io.BytesIO(b"FROM demo\nRUN echo built > /built\nCMD [\"cat\", \"/built\"]\n")
built, lines = client.images.build(fileobj=recipe, tag="built:v1", rm=True)
assert any("Successfully" in line.get("stream", "") for line in lines)
assert client.containers.run("built:v1", remove=True) == b"built\n"
client.images.remove("built:v1")
client.images.remove("picture:v1")
raises(docker.errors.ImageNotFound, 404, lambda: client.images.get("built:v1"))

# All is told, and all can go.
web.remove(force=True)
network.remove()
volume.remove()
events = client.events(since=began, until=int(time.time()) + 1, decode=True)
told = [(event["Type"], event["Action"]) for event in events]
for wanted in [("container", "create"), ("container", "start"), ("container", "rename"),
               ("container", "die"), ("container", "destroy"), ("network", "create"),
               ("volume", "create"), ("image", "tag")]:
    assert wanted in told, (wanted, sorted(set(told)))
assert client.containers.list(all=True) == []
assert client.df()["Containers"] in ([], None)
left = client.containers.create(image, "true", labels={"pruned": "yes"})
assert not client.containers.prune(filters={"label": "pruned=no"})["ContainersDeleted"]
assert client.containers.prune()["ContainersDeleted"] == [left.id]
client.volumes.prune()
client.networks.prune()
print("whole")
