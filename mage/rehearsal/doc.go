// Package rehearsal is a model of what a release meets at GitHub, in process and without a network:
// the container registry GHCR, the Packages REST API, the OIDC issuer of GitHub Actions and the
// attestations API, with the refusals that were observed there, and with faults on demand.
//
// [GitHub] is an http.Handler around a real registry, CNCF distribution in memory, to be put behind
// httptest.NewServer; its zero [Options] are GHCR without login and without lag. [Injector] wraps any
// handler and disturbs chosen calls: a [Rule] says which, a [Fault] says how. [EveryCall] runs an
// operation once for every call it makes and disturbs that one. Clients need not know any of it:
// everything happens behind the wire, so that crane, oras or docker meet the same.
//
// What is modelled and from which source, and what is not, stands in docs/rehearsal.md.
//
// Invariant: the same requests in the same order get the same answers; they depend on no clock but
// the one that was handed in, on no environment, and on no randomness but that of distribution's
// upload URLs and of the key that signs OIDC tokens.
package rehearsal
