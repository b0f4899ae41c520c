"""The README's first session, by a client that openapi-python-client made from the API's description.

usage: session.py DIRECTORY_OF_THE_CLIENT ADDRESS. It fails if a field is missing or of another type.
"""

import sys
import time
import uuid

sys.path.insert(0, sys.argv[1])

from holdfast_client import Client
from holdfast_client.api.events import events_list
from holdfast_client.api.health import health_get
from holdfast_client.api.nodes import nodes_list
from holdfast_client.api.volumes import (
    volumes_attach,
    volumes_create,
    volumes_delete,
    volumes_detach,
    volumes_get,
    volumes_list,
)
from holdfast_client.models import (
    Attach,
    Empty,
    EventList,
    Health,
    NewVolume,
    NodeList,
    Outcome,
    Problem,
    Volume,
    VolumeList,
    VolumeOutcome,
    VolumeSpec,
)

client = Client(base_url=sys.argv[2], timeout=60, raise_on_unexpected_status=True)
change = {"client": client, "holdfast_csrf": "1"}


def a(kind, answer):
    """The answer, which must be of this type."""
    assert isinstance(answer, kind), f"{kind.__name__} was expected, this came: {answer}"
    return answer


nodes = a(NodeList, nodes_list.sync(client=client))
assert len(nodes.items) == 3 and all(n.state == "up" and n.name and n.uuid for n in nodes.items), nodes
leader = [n.name for n in nodes.items if n.part.value == "leader"]
assert len(leader) == 1, nodes

key = str(uuid.uuid4())
spec = VolumeSpec(size="256MiB", replicas=3)
made = a(VolumeOutcome, volumes_create.sync(body=NewVolume(name="first", spec=spec), idempotency_key=key, **change))
assert made.done and a(Volume, made.volume).name == "first", made
again = volumes_create.sync_detailed(body=NewVolume(name="first", spec=spec), idempotency_key=key, **change)
assert again.status_code == 201 and again.headers["Idempotency-Replayed"] == "true", again
assert again.parsed.volume.id == made.volume.id, again
refused = a(Problem, volumes_create.sync(body=NewVolume(name="first", spec=spec), **change))
assert refused.code.value == "exists" and refused.fate.value == "refuse" and refused.status == 409, refused

attached = a(VolumeOutcome, volumes_attach.sync("first", body=Attach(node="n1"), **change))
assert attached.done and attached.volume.attachment.node == "n1", attached
shown = a(Volume, volumes_get.sync("first", client=client, min_revision=attached.revision))
assert shown.spec["size"] == 268435456 if isinstance(shown.spec, dict) else shown.spec.size == 268435456, shown
assert len(shown.replicas) == 3 and {r.node for r in shown.replicas} == {"n1", "n2", "n3"}, shown
# Each node tells what its replica takes with its next heartbeat.
end = time.monotonic() + 60
while not isinstance(shown.used_bytes, int) and time.monotonic() < end:
    time.sleep(0.1)
    shown = a(Volume, volumes_get.sync("first", client=client))
assert shown.size_bytes == 268435456 and isinstance(shown.used_bytes, int), shown
assert [v.name for v in a(VolumeList, volumes_list.sync(client=client, name="firs")).items] == ["first"]
a(Health, health_get.sync(client=client))

a(VolumeOutcome, volumes_detach.sync("first", body=Empty(), **change))
a(Outcome, volumes_delete.sync("first", body=Empty(), **change))
gone = a(Problem, volumes_get.sync("first", client=client))
assert gone.code.value == "not_found", gone
events = a(EventList, events_list.sync(client=client, subject="first"))
assert events.items and all(e.at and e.message and e.revision for e in events.items), events
print("session: ok")
