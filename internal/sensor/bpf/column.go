package bpf

import "github.com/amooglesoft/trafficmonitor/internal/vector"

// Column is where a slot's packets of one direction and vector are counted.
type Column uint8

// Columns is how many there are.
const Columns = vector.Directions * vector.Count

// ColumnOf returns the column of a direction and vector.
func ColumnOf(d vector.Direction, v vector.ID) Column { return Column(int(d)*vector.Count + int(v)) }

// Direction returns the way the column's packets go.
func (c Column) Direction() vector.Direction { return vector.Direction(c / vector.Count) }

// Vector returns the class of the column's packets.
func (c Column) Vector() vector.ID { return vector.ID(c % vector.Count) }

// Row holds a count for each column.
type Row [Columns]Count
