// Package intercept makes the nftables rules that lead a process's TCP connections through its sidecar without the
// process knowing: what a table holds is decided here ([Rules]), printed in nft's syntax, and put into the kernel.
//
// Each instance has one table of its own, in the family inet, named outrigger-MESH-INSTANCE, where MESH stands for the
// state directory ([Prefix]). All that is ever changed are whole tables of that name: a table is put in, or replaced, in one transaction,
// and taken out with all that it holds. So nothing of anybody else's is touched, and what a control plane that was killed
// left behind is found by its name.
//
// # Why nothing loops
//
// Rules name whom they take, and a sidecar is not among them: by cgroup it is the process's own cgroup, by uid the user that
// it runs as, who is not the sidecar's. By namespace it is everybody but the cgroup that all sidecars of the mesh are in.
// What is for loopback is let be, so a process reaches the listeners that it is told of as it does without interception.
//
// What becomes of a redirected connection is the sidecar's business (listeners intercept/…, see controlplane/xds); when tables are put
// in and taken out is controlplane/host's.
package intercept
