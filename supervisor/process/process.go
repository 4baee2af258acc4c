// Package process starts, watches and ends operating system processes, with all that they leave behind.
//
// Every process gets a session and a process group of its own. A [Reaper] makes the calling process the subreaper of
// its descendants (prctl(2), PR_SET_CHILD_SUBREAPER), so that none can leave its tree by forking away; it takes every
// exit status, so no zombie stays, and it can sweep: kill all descendants that are not themselves watched.
// Where a cgroup v2 can be written, a process may be put in one, whose cgroup.kill ends it in one stroke.
//
// What a process is for, when it is restarted and where its output goes are decided in supervisor/runner; restarting
// strategies in supervisor. It runs on Linux only; the types of state.go are for everybody.
package process

// User is whom a process runs as.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"` // besides GID
}
