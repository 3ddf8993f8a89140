// SPDX-License-Identifier: Apache-2.0

// Package heap fills a process with objects as a service with much state has them, so that the garbage
// collector, fork and the end of the process have to do with all of it.
package heap

import "unsafe"

// A node is an object of the size that maps, trees and requests are made of.
type node struct {
	left, right *node
	payload     [112]byte
}

// NodeSize is the size of an object in bytes.
const NodeSize = int64(unsafe.Sizeof(node{}))

// A Heap is objects that point to each other. They live as long as it does.
type Heap struct{ root *node }

// Fill makes objects of that many bytes. Every page of them is written to.
func Fill(bytes int64) *Heap {
	h := new(Heap)
	h.root = tree(bytes / NodeSize)
	return h
}

// tree has count nodes and is as flat as can be: a garbage collector with several workers can share it.
func tree(count int64) *node {
	if count <= 0 {
		return nil
	}
	n := &node{left: tree((count - 1) / 2), right: tree(count - 1 - (count-1)/2)}
	n.payload[0] = byte(count)
	return n
}

// Bytes counts what is there.
func (h *Heap) Bytes() int64 { return h.root.count() * NodeSize }

func (n *node) count() int64 {
	if n == nil {
		return 0
	}
	return 1 + n.left.count() + n.right.count()
}
