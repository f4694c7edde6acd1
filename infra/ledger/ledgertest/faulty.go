package ledgertest

import "context"

// Faulty is a store whose writes may fail before and after they are done. What else is done
// to a test's world can be a step too.
type Faulty struct {
	Store
	// Fault, if set, is asked before and after every step: "before create KEY", "after swap
	// KEY", "before delete KEY". Its error is the step's.
	Fault func(step string) error
}

// Step does something, unless it fails before or after.
func (f *Faulty) Step(name string, do func() error) error {
	if f.Fault != nil {
		if err := f.Fault("before " + name); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if f.Fault != nil {
		return f.Fault("after " + name)
	}
	return nil
}

// Create is the store's, as a step.
func (f *Faulty) Create(ctx context.Context, key string, data []byte) (version string, err error) {
	err = f.Step("create "+key, func() error {
		version, err = f.Store.Create(ctx, key, data)
		return err
	})
	return version, err
}

// Swap is the store's, as a step.
func (f *Faulty) Swap(ctx context.Context, key, old string, data []byte) (version string, err error) {
	err = f.Step("swap "+key, func() error {
		version, err = f.Store.Swap(ctx, key, old, data)
		return err
	})
	return version, err
}

// Delete is the store's, as a step.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.Step("delete "+key, func() error { return f.Store.Delete(ctx, key) })
}
