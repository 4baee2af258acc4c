// Package outriggerv1 holds our protobufs and their generated code, the only generated code in the tree: what the control plane
// and the sidecar say to each other where Envoy's own resources have no word for it. The .proto files are the documentation;
// tools/genproto writes the rest. What users write is in api/resource.
package outriggerv1
