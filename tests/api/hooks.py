"""Rules of the API that its description cannot say, for schemathesis.

A request that breaks one is lawful by the description and still refused, so it is changed to one that keeps it before
it is sent. What happens to those that break it is tested in tests/tests/api_bad.rs.
"""

import re

import schemathesis

MOST = 2**53
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
TIME = re.compile("[0-9]{1,4}(ms|s|m|h|d)?")


def whole(value):
    """The whole number that a parameter is sent as, or None."""
    try:
        return None if isinstance(value, bool) else int(value)
    except (TypeError, ValueError):
        return None


def shorten(part, bounds):
    for name, most in bounds.items():
        text = part.get(name)
        if isinstance(text, str) and len(text) <= most < len(text.encode("utf-8", "surrogatepass")):
            part[name] = text[: most // 4]


@schemathesis.hook
def before_call(context, case, **kwargs):
    query = case.query
    if isinstance(query, dict):
        # A revision that has not come is waited for, then answered with 503; waits cost the time of the run.
        for name, most, limit in (("min_revision", 1, MOST), ("wait", 1, 60)):
            number = whole(query.get(name))
            if number is not None and most < number <= limit:
                query[name] = most
        # A cursor is opaque: only what a list gave is one.
        lists = ("/v1/volumes", "/v1/replicas", "/v1/nodes", "/v1/disks", "/v1/jobs")
        if case.path in lists and isinstance(query.get("after"), str) and len(query["after"]) <= 600:
            del query["after"]
    # Whatever is drained or held takes no new volume, and soon every create would be refused: these are only tried.
    if case.path.endswith(("/drain", "/maintenance", "/jobs/pause")):
        if not query:
            case.query = {"dry_run": "true"}
        elif isinstance(query, dict) and str(query.get("dry_run", "false")).lower() == "false":
            query["dry_run"] = "true"
    path = case.path_parameters
    if isinstance(path, dict) and case.path.startswith("/v1/jobs/{kind}/{of}") and NAME.fullmatch(str(path.get("of"))):
        # Jobs of disks and replicas are named by numbers, rebalancing is of the cluster.
        number = str(path["of"]).isdecimal() and not str(path["of"]).startswith("0")
        if path.get("kind") in ("disk", "replica") and not number:
            path["of"] = "1"
        elif path.get("kind") == "rebalance":
            path["of"] = "cluster"
    body = case.body
    if isinstance(body, dict):
        spec = body.get("spec")
        # min_replicas is at most replicas, which is at least 1.
        if isinstance(spec, dict) and whole(spec.get("min_replicas")) in range(2, 6):
            spec["min_replicas"] = 1
        # A pattern cannot compare times: texts like 0 or 9999d would be beyond what an attribute takes.
        for name, text in (("rebuild_after", "10m"), ("replica_timeout", "1s"), ("scrub_interval", "7d")):
            if isinstance(spec, dict) and TIME.fullmatch(str(spec.get(name))) and isinstance(spec[name], str):
                spec[name] = text
        # A schema counts characters, the API counts bytes of UTF-8.
        shorten(body, {"subject": 128, "reason": 512})
        if isinstance(spec, dict):
            shorten(spec, {name: 255 for name in spec if name.startswith("label.")})
        # The nodes that are tested stay three voters: with fewer, one of them would stop answering for a while.
        if case.path == "/v1/cluster/voters" and body.get("count") in (1, 5):
            body["count"] = 3
