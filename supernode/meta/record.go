package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Reader is the part of a Store that reads.
type Reader interface {
	Get(ctx context.Context, key string) (Value, error)
	List(ctx context.Context, prefix, from string, limit int) ([]Value, error)
}

// A record is a value that is JSON, as most rooms keep theirs.

// PutRecord is Put for a record.
func PutRecord(key string, record any) (Op, error) {
	data, err := json.Marshal(record)
	if err != nil {
		return Op{}, fmt.Errorf("encode %s: %w", key, err)
	}
	return Put(key, data), nil
}

// DecodeRecord reads a value that is a record.
func DecodeRecord[T any](v Value) (*T, error) {
	record := new(T)
	if err := json.Unmarshal(v.Data, record); err != nil {
		return nil, fmt.Errorf("the metadata of %s is damaged: %w; restore a backup", v.Key, err)
	}
	return record, nil
}

// ReadRecord gets a record and its revision: nil and 0 when there is none.
func ReadRecord[T any](ctx context.Context, s Reader, key string) (*T, Revision, error) {
	v, err := s.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	record, err := DecodeRecord[T](v)
	return record, v.Revision, err
}

// Records reads every record with the prefix, by key; see Scan.
func Records[T any](ctx context.Context, s Reader, prefix string) ([]T, error) {
	var out []T
	for v, err := range Scan(ctx, s, prefix) {
		if err != nil {
			return nil, err
		}
		record, err := DecodeRecord[T](v)
		if err != nil {
			return nil, err
		}
		out = append(out, *record)
	}
	return out, nil
}
