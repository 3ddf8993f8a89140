// SPDX-License-Identifier: Apache-2.0

package agreement

// An Order is what a test says to the operator in a machine. One field is set.
type Order struct {
	Open  *Setup `json:",omitempty"`
	Op    *Op    `json:",omitempty"`
	Close bool   `json:",omitempty"`
}

// An Answer is the operator's to one order.
type Answer struct {
	Observation *Observation `json:",omitempty"` // of an Op
	Error       string       `json:",omitempty"`
}
