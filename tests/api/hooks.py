"""Rules of the API that its description cannot say, for schemathesis.

A request that breaks one is lawful by the description and still refused, so it is changed to one that keeps it before
it is sent. What happens to those that break it is tested in tests/tests/api_bad.rs.
"""

import schemathesis

MOST = 2**53


def whole(value):
    """The whole number that a parameter is sent as, or None."""
    try:
        return None if isinstance(value, bool) else int(value)
    except (TypeError, ValueError):
        return None


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
    body = case.body
    if isinstance(body, dict):
        spec = body.get("spec")
        # min_replicas is at most replicas, which is at least 1.
        if isinstance(spec, dict) and whole(spec.get("min_replicas")) in range(2, 6):
            spec["min_replicas"] = 1
        # A schema counts characters, the API counts bytes of UTF-8.
        for part, names in ((spec, [k for k in spec or () if k.startswith("label.")] if isinstance(spec, dict) else []), (body, ["subject", "reason"])):
            for name in names:
                text = part.get(name)
                most = {"subject": 128, "reason": 512}.get(name, 255)
                if isinstance(text, str) and len(text) <= most < len(text.encode("utf-8", "surrogatepass")):
                    part[name] = text[: most // 4]
        # The nodes that are tested stay three voters: with fewer, one of them would stop answering for a while.
        if case.path == "/v1/cluster/voters" and body.get("count") in (1, 5):
            body["count"] = 3
