// The resources of the API as types for the editor and `tsc --checkJs`: what storage-node/control/src/model says, without its
// words. Promises: the fields of each are those of the API's description (a test compares them). No code.

/** @typedef {"info" | "warning" | "error"} Severity */
/** @typedef {"true" | "false" | "unknown"} Truth */
/** @typedef {"ok" | "creating" | "growing" | "degraded" | "writes_wait" | "not_served" | "unavailable" | "unknown"} VolumeState */
/** @typedef {"in_sync" | "creating" | "out" | "syncing" | "away" | "disk_down" | "unknown"} CopyState */
/** @typedef {"node" | "disk" | "replica" | "scrub" | "rebalance"} JobKind */
/** @typedef {"running" | "waiting" | "held"} JobState */
/** @typedef {"active" | "draining" | "maintenance"} Mode */
/** @typedef {"leader" | "voter" | "learner" | "follower" | "unknown"} Part */

/**
 * @typedef {object} HealthRef
 * @property {string} code
 * @property {Severity} severity
 * @property {string} message
 */

/**
 * @typedef {object} HealthItem
 * @property {string} code
 * @property {Severity} severity
 * @property {string} subject
 * @property {string} message
 * @property {string} means
 * @property {string} action
 * @property {string | null} since
 * @property {boolean} muted
 */

/**
 * @typedef {object} MuteItem
 * @property {string} code
 * @property {string} subject
 * @property {string} by
 * @property {string} reason
 * @property {string | null} until
 * @property {boolean} sticky
 */

/**
 * @typedef {object} Health
 * @property {Severity} worst
 * @property {string} state
 * @property {HealthItem[]} items
 * @property {number} total
 * @property {Object<string, number>} counts
 * @property {MuteItem[]} mutes
 * @property {number} revision
 */

/**
 * @typedef {object} Condition
 * @property {string} type
 * @property {Truth} status
 * @property {string} [reason]
 * @property {string} [message]
 * @property {number} [observed_epoch]
 */

/**
 * @typedef {object} Capacity
 * @property {number} raw_bytes
 * @property {number} used_bytes
 * @property {number} provisioned_bytes
 * @property {number} over_commit
 * @property {number} spare_bytes
 * @property {string} [largest_node]
 * @property {number} largest_node_used_bytes
 */

/**
 * @typedef {object} Cluster
 * @property {string} id
 * @property {string} name
 * @property {number} revision
 * @property {number} version
 * @property {number} newest_version
 * @property {string} [leader]
 * @property {string[]} voters
 * @property {number} voters_wanted
 * @property {boolean} voters_changing
 * @property {string} answered_by
 * @property {Capacity} capacity
 * @property {Record<string, number>} nodes
 * @property {Record<string, number>} disks
 * @property {Record<string, number>} volumes
 * @property {boolean} rebuild_paused
 * @property {Severity} worst
 * @property {string} health
 */

/**
 * @typedef {object} AttributeInfo
 * @property {string} key
 * @property {string} values
 * @property {string} default
 * @property {string} online
 * @property {string} since
 * @property {string} help
 * @property {string} kind
 * @property {string[]} [words]
 */

/**
 * @typedef {object} NodeAddresses
 * @property {string} api
 * @property {string} data
 * @property {string} nbd
 */

/**
 * @typedef {object} Node
 * @property {number} id
 * @property {string} name
 * @property {number} revision
 * @property {string} uuid
 * @property {NodeAddresses} addresses
 * @property {Record<string, string>} labels
 * @property {string} version
 * @property {Mode} mode
 * @property {boolean} [held]
 * @property {Part} part
 * @property {string} state
 * @property {number} [heard_seconds]
 * @property {Condition[]} conditions
 * @property {HealthRef[]} health
 * @property {number[]} disks
 * @property {number} replicas
 * @property {number} attached
 */

/**
 * @typedef {object} Slots
 * @property {number} used
 * @property {number} [total]
 */

/**
 * @typedef {object} Disk
 * @property {number} id
 * @property {number} revision
 * @property {string} uuid
 * @property {string} node
 * @property {string} path
 * @property {string} media
 * @property {number} capacity_bytes
 * @property {number} [used_bytes]
 * @property {number} provisioned_bytes
 * @property {Slots} replica_slots
 * @property {string} state
 * @property {string} [why]
 * @property {string} [fault]
 * @property {string} [since]
 * @property {boolean} [draining]
 * @property {boolean} [held]
 * @property {string} [backend]
 * @property {Condition[]} conditions
 * @property {HealthRef[]} health
 */

/**
 * @typedef {object} Sync
 * @property {string} stage
 * @property {number} done_bytes
 * @property {number} total_bytes
 * @property {number} copied_bytes
 * @property {number} bytes_per_second
 */

/**
 * @typedef {object} Replica
 * @property {number} id
 * @property {string} volume
 * @property {number} shard
 * @property {string} node
 * @property {number} disk
 * @property {CopyState} state
 * @property {string} [why]
 * @property {string} [since]
 * @property {number} [used_bytes]
 * @property {boolean} [moving]
 * @property {boolean} [held]
 * @property {Sync} [sync]
 */

/**
 * @typedef {object} Attachment
 * @property {string} node
 * @property {number} term
 * @property {string} [since]
 * @property {boolean} [serving]
 * @property {string} [waits_for]
 * @property {number} [clients]
 * @property {string[]} uris
 * @property {string} [looked_after_by]
 */

/**
 * @typedef {object} Scrubbed
 * @property {string | null} at
 * @property {number} chunks
 * @property {number} skipped
 * @property {number} bad
 * @property {number} repaired
 * @property {number} lost
 * @property {number} diverged
 */

/**
 * @typedef {object} Volume
 * @property {number} id
 * @property {string} name
 * @property {number} revision
 * @property {number} epoch
 * @property {string | null} created_at
 * @property {Record<string, string>} labels
 * @property {Record<string, any>} spec
 * @property {Record<string, any>} effective
 * @property {number} size_bytes
 * @property {number} usable_bytes
 * @property {number} [used_bytes]
 * @property {VolumeState} state
 * @property {string} [why]
 * @property {Condition[]} conditions
 * @property {HealthRef[]} health
 * @property {Attachment} [attachment]
 * @property {number} copies_ok
 * @property {number} copies_wanted
 * @property {Replica[]} replicas
 * @property {number} replicas_total
 * @property {string[]} jobs
 * @property {Scrubbed} [scrubbed]
 */

/**
 * @typedef {object} StatsPoint
 * @property {string} at
 * @property {number} reads_per_second
 * @property {number} writes_per_second
 * @property {number} read_bytes_per_second
 * @property {number} written_bytes_per_second
 * @property {number | null} read_p50_seconds
 * @property {number | null} read_p99_seconds
 * @property {number | null} write_p50_seconds
 * @property {number | null} write_p99_seconds
 */

/**
 * @typedef {object} VolumeStats
 * @property {string} volume
 * @property {string | null} node
 * @property {number} interval_seconds
 * @property {StatsPoint[]} points
 */

/**
 * @typedef {object} Job
 * @property {string} id
 * @property {JobKind} kind
 * @property {string} subject
 * @property {string} [node]
 * @property {JobState} state
 * @property {string} message
 * @property {string} [why_waiting]
 * @property {number} [replicas_left]
 * @property {number} [done_bytes]
 * @property {number} [total_bytes]
 * @property {number} [copied_bytes]
 * @property {number} [bytes_per_second]
 * @property {number} [eta_seconds]
 * @property {string} because
 */

/**
 * @typedef {object} Event
 * @property {number} revision
 * @property {string | null} at
 * @property {string} kind
 * @property {Severity} severity
 * @property {string} subject
 * @property {string} message
 */

/**
 * What a refused request answers, as far as the page shows it.
 * @typedef {object} Problem
 * @property {string} code
 * @property {number} status
 * @property {string} what
 * @property {string} why
 * @property {string} next
 */

export {};
