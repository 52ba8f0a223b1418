// Package version says which version this tree is of, in one place: the images'
// tags, what the programs report, and whatever else a release carries follow from
// it. It never asks git: which commit a build is of is package source's part.
package version

// Number is the version as charts and image tags spell it, of Semantic
// Versioning 2.0 and without a v. A release raises it first; what has been
// released under a number is never replaced.
const Number = "0.1.0"

// Previous is the commit that the release before this one was made from, which an
// upgrade is tried from. A release names the last one's commit here when it raises
// Number; until there is one, it is the first commit whose chart installs a fleet.
const Previous = "2bbc8002df8aabdd96f0b032921df28cbb637095"

// Tag is the version as Go, git and our programs' --version spell it.
const Tag = "v" + Number
